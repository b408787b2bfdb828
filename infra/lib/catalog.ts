import { readFileSync } from 'node:fs';

/** One job as `cargo jobs catalog --json` declares it. Durations are seconds. */
export interface JobDeclaration {
  readonly name: string;
  readonly domain: string;
  readonly summary: string;
  readonly priority: 'user-facing' | 'near-real-time' | 'scheduled' | 'background';
  /** Maximum concurrency of the event source, at least 2. */
  readonly concurrency: number;
  readonly batch: { readonly size: number; readonly windowSeconds: number };
  readonly timeoutSeconds: number;
  readonly memoryMb: number;
  /** Capabilities: each brings permissions and environment, and nothing else does. */
  readonly uses: readonly string[];
  /** Jobs it may enqueue for; `*` is every queue and dead-letter queue. */
  readonly sendsTo: readonly string[];
  readonly schedules: readonly ScheduleDeclaration[];
  readonly queue: {
    readonly visibilityTimeoutSeconds: number;
    readonly maxReceiveCount: number;
    readonly retentionSeconds: number;
    readonly deadLetterRetentionSeconds: number;
  };
  readonly alarms: { readonly oldestMessageSeconds: number; readonly deadLetters: number };
  readonly logRetentionDays: number;
}

/** A message that EventBridge Scheduler puts on the job's own queue. */
export interface ScheduleDeclaration {
  readonly name: string;
  readonly expression: string;
  readonly timezone: string;
  readonly message: Readonly<Record<string, unknown>>;
}

/** Every job, in the order of the catalog. */
export interface Catalog {
  readonly version: number;
  readonly jobs: readonly JobDeclaration[];
}

/** The checked-in catalog. */
export function readCatalog(file: URL = new URL('../catalog.json', import.meta.url)): Catalog {
  const catalog = JSON.parse(readFileSync(file, 'utf8')) as Catalog;
  if (catalog.version !== 1)
    throw new Error(`catalog version ${catalog.version} is not 1: this app is older than the catalog`);
  return catalog;
}

/** The catalog's jobs by domain. */
export function byDomain(catalog: Catalog): Map<string, JobDeclaration[]> {
  const domains = new Map<string, JobDeclaration[]>();
  for (const job of catalog.jobs) domains.set(job.domain, [...(domains.get(job.domain) ?? []), job]);
  return domains;
}
