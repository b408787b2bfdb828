import { type App, CfnOutput, Stack, type StackProps } from 'aws-cdk-lib';
import type { ITopic } from 'aws-cdk-lib/aws-sns';
import type { Capabilities } from './capability.ts';
import { Database } from './database.ts';
import { Mail } from './mail.ts';
import { Media } from './media.ts';
import type { Settings } from './settings.ts';
import { Storage } from './storage.ts';

/** What outlives every deployment of a job: database, mail identity and buckets. */
export class Data extends Stack {
  readonly capabilities: Capabilities;
  /** Topics that a job may subscribe to, by the name that the catalog gives them. */
  readonly topics: Readonly<Record<string, ITopic>>;

  constructor(scope: App, settings: Settings, props: StackProps) {
    super(scope, 'Data', { ...props, terminationProtection: !settings.local });
    const storage = new Storage(this, 'Storage', settings);
    const mail = new Mail(this, 'Mail', settings);
    const database = settings.local
      ? { environment: { DATABASE_URL: settings.databaseUrl }, grant: () => {} }
      : new Database(this, 'Database', settings.prefix);
    this.capabilities = {
      database,
      mail,
      media: new Media(settings),
      storage,
      'storage-deletion': storage.deletion,
      'unsubscribe-key': mail.unsubscribeKey,
    };
    this.topics = { 'mail-feedback': mail.feedback };

    new CfnOutput(this, 'AssetsBucket', { value: storage.bucketName });
    if (settings.local) return;
    for (const [index, { name, value }] of mail.identity.dkimRecords.entries()) {
      new CfnOutput(this, `DkimRecord${index + 1}`, { value: `${name} CNAME ${value}` });
    }
  }
}
