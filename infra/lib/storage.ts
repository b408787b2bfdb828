import { Aws, Duration } from 'aws-cdk-lib';
import * as iam from 'aws-cdk-lib/aws-iam';
import * as s3 from 'aws-cdk-lib/aws-s3';
import { Construct } from 'constructs';
import { acceptWildcard, type Capability } from './capability.ts';
import { removal, type Settings } from './settings.ts';

/** The bucket of assets. A step of processing reads what was scanned and writes what is derived of it, and nothing else there. */
export class Storage extends Construct implements Capability {
  readonly bucketName: string;
  readonly environment: Record<string, string>;
  /** For functions that clean up: they look and delete, and write nothing. */
  readonly deletion: Capability;

  constructor(
    scope: Construct,
    id: string,
    private readonly settings: Settings,
  ) {
    super(scope, id);
    // Bucket names are global: account and region make it ours.
    this.bucketName = `${settings.prefix}assets-${Aws.ACCOUNT_ID}-${Aws.REGION}`;
    this.environment = { ASSETS_BUCKET: this.bucketName };
    this.deletion = {
      environment: this.environment,
      // S3 has no permission to ask for an object's size but that to read it.
      grant: (role) => this.allow(role, ['s3:GetObject', 's3:DeleteObject'], '*'),
    };

    const defaults = {
      encryption: s3.BucketEncryption.S3_MANAGED,
      blockPublicAccess: s3.BlockPublicAccess.BLOCK_ALL,
      enforceSSL: true,
      removalPolicy: removal(settings),
    };
    const accessLogs = () =>
      new s3.Bucket(this, 'AccessLogs', { ...defaults, lifecycleRules: [{ expiration: Duration.days(90) }] });
    new s3.Bucket(this, 'Assets', {
      ...defaults,
      bucketName: this.bucketName,
      versioned: true,
      lifecycleRules: [
        {
          abortIncompleteMultipartUploadAfter: Duration.days(1),
          noncurrentVersionExpiration: Duration.days(30),
          expiredObjectDeleteMarker: true,
        },
        { prefix: 'temp/', expiration: Duration.days(1) },
        // What the scan and the clean-up have left behind.
        { prefix: 'uploads/', expiration: Duration.days(14) },
      ],
      ...(!settings.local && { serverAccessLogsBucket: accessLogs() }),
    });
  }

  grant(role: iam.Role): void {
    this.allow(role, ['s3:GetObject'], 'assets/*');
    this.allow(role, ['s3:PutObject', 's3:AbortMultipartUpload'], 'derived/*');
  }

  private allow(role: iam.Role, actions: string[], keys: string): void {
    const bucket = `arn:${Aws.PARTITION}:s3:::${this.bucketName}`;
    // Without it S3 calls a missing object forbidden.
    role.addToPolicy(new iam.PolicyStatement({ actions: ['s3:ListBucket'], resources: [bucket] }));
    role.addToPolicy(new iam.PolicyStatement({ actions, resources: [`${bucket}/${keys}`] }));
    acceptWildcard(
      role,
      `arn:<AWS::Partition>:s3:::${this.settings.prefix}assets-<AWS::AccountId>-<AWS::Region>/${keys}`,
      'A job may touch every asset: which one it is to touch comes with the message',
    );
  }
}
