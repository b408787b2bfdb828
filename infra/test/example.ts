import type { Catalog } from '../lib/catalog.ts';

const FOUR_DAYS = 345_600;
const TWO_WEEKS = 1_209_600;

/** One job that uses all that a catalog can declare, one that uses nothing, and an endpoint. */
export const EXAMPLE: Catalog = {
  version: 1,
  jobs: [
    {
      name: 'thumbnail-drawing',
      domain: 'assets',
      summary: 'Draws thumbnails.',
      priority: 'near-real-time',
      concurrency: 5,
      batch: { size: 100, windowSeconds: 2 },
      timeoutSeconds: 60,
      memoryMb: 1024,
      connections: 3,
      uses: ['database', 'mail', 'storage'],
      sendsTo: ['thumbnail-cleanup'],
      schedules: [
        {
          name: 'nightly',
          expression: 'cron(0 3 * * ? *)',
          timezone: 'America/New_York',
          message: { asOf: '<aws.scheduler.scheduled-time>', schedule: 'nightly' },
        },
      ],
      topics: ['mail-feedback'],
      queue: {
        visibilityTimeoutSeconds: 362,
        maxReceiveCount: 15,
        retentionSeconds: FOUR_DAYS,
        deadLetterRetentionSeconds: TWO_WEEKS,
      },
      alarms: { oldestMessageSeconds: 300, deadLetters: 3 },
      logRetentionDays: 14,
    },
    {
      name: 'thumbnail-cleanup',
      domain: 'assets',
      summary: 'Removes thumbnails that nothing refers to.',
      priority: 'background',
      concurrency: 2,
      batch: { size: 1, windowSeconds: 0 },
      timeoutSeconds: 900,
      memoryMb: 128,
      connections: 2,
      uses: [],
      sendsTo: [],
      schedules: [],
      topics: [],
      queue: {
        visibilityTimeoutSeconds: 5400,
        maxReceiveCount: 10,
        retentionSeconds: FOUR_DAYS,
        deadLetterRetentionSeconds: TWO_WEEKS,
      },
      alarms: { oldestMessageSeconds: 86_400, deadLetters: 1 },
      logRetentionDays: 30,
    },
  ],
  endpoints: [
    {
      name: 'thumbnail-order',
      domain: 'assets',
      summary: 'Takes orders for thumbnails.',
      concurrency: 7,
      timeoutSeconds: 10,
      memoryMb: 128,
      uses: ['unsubscribe-key'],
      sendsTo: ['thumbnail-drawing'],
      logRetentionDays: 14,
    },
  ],
};
