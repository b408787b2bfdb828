import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { Match } from 'aws-cdk-lib/assertions';
import { type Catalog, type JobDeclaration, readCatalog } from '../lib/catalog.ts';
import { deployment } from './deployments.ts';
import { EXAMPLE } from './example.ts';
import { COMMON_VARIABLES, one, statementsOf, templateOf, text } from './template.ts';

const OWN = [
  'logs:CreateLogStream',
  'logs:PutLogEvents',
  'sqs:ChangeMessageVisibility',
  'sqs:DeleteMessage',
  'sqs:GetQueueAttributes',
  'sqs:GetQueueUrl',
  'sqs:ReceiveMessage',
  'sqs:SendMessage',
];
const ATTACH = [
  'ec2:CreateNetworkInterface',
  'ec2:DeleteNetworkInterface',
  'ec2:DescribeNetworkInterfaces',
  'ec2:DescribeSubnets',
];
const PERMISSIONS: Record<string, string[]> = {
  database: [...ATTACH, 'rds-db:connect'],
  mail: ['ses:GetAccount', 'ses:SendEmail'],
  storage: ['s3:AbortMultipartUpload', 's3:GetObject', 's3:ListBucket', 's3:PutObject'],
  'storage-deletion': ['s3:DeleteObject', 's3:GetObject', 's3:ListBucket'],
};
const VARIABLES: Record<string, string[]> = {
  database: ['DATABASE_AUTH', 'DATABASE_POOL_SIZE', 'DATABASE_URL'],
  mail: [
    'APP_URL',
    'EMAIL_FROM_ADDRESS',
    'EMAIL_FROM_NAME',
    'EMAIL_POSTAL_ADDRESS',
    'SES_CONFIGURATION_SET_BULK',
    'SES_CONFIGURATION_SET_BULK_UNTRACKED',
    'SES_CONFIGURATION_SET_TRANSACTIONAL',
    'UNSUBSCRIBE_KEY',
  ],
  media: ['FFMPEG_BIN', 'FFPROBE_BIN'],
  storage: ['ASSETS_BUCKET'],
  'storage-deletion': ['ASSETS_BUCKET'],
  'unsubscribe-key': ['UNSUBSCRIBE_KEY'],
};
/** No resource can be named for these. */
const WITHOUT_RESOURCE = [...ATTACH, 'ses:GetAccount'];

for (const [source, catalog] of Object.entries({ catalog: readCatalog(), example: EXAMPLE })) {
  const app = deployment('aws', { catalog, builtinCloudFormationValidation: false });
  for (const job of catalog.jobs) {
    describe(`${source}: ${job.name}`, () => {
      queueChecks(job, app);
      if (job.awaitsFunction) absenceChecks(job, app);
      else checks(job, catalog, app);
    });
  }
}

const queueArn = (of: string) => `arn:<AWS::Partition>:sqs:<AWS::Region>:<AWS::AccountId>:yg-${of}`;

/** Of every job, whether anything empties its queue or not. */
function queueChecks(job: JobDeclaration, app: ReturnType<typeof deployment>): void {
  const template = templateOf(app, job.domain);
  const name = `yg-${job.name}`;
  const [queueId, queue] = one(template, 'AWS::SQS::Queue', { QueueName: name });
  const [deadId, dead] = one(template, 'AWS::SQS::Queue', { QueueName: `${name}-dlq` });

  test('the queue has the numbers of the catalog and redrives to its own dead-letter queue', () => {
    assert.equal(queue.Properties['VisibilityTimeout'], job.queue.visibilityTimeoutSeconds);
    assert.equal(queue.Properties['MessageRetentionPeriod'], job.queue.retentionSeconds);
    assert.deepEqual(queue.Properties['RedrivePolicy'], {
      deadLetterTargetArn: { 'Fn::GetAtt': [deadId, 'Arn'] },
      maxReceiveCount: job.queue.maxReceiveCount,
    });
    assert.equal(dead.Properties['MessageRetentionPeriod'], job.queue.deadLetterRetentionSeconds);
    assert.equal(dead.Properties['RedriveAllowPolicy'].redrivePermission, 'byQueue');
    assert.deepEqual(dead.Properties['RedriveAllowPolicy'].sourceQueueArns.map(text), [queueArn(job.name)]);
  });

  test('both queues are encrypted, refuse plain HTTP and outlive their declaration', () => {
    for (const [id, { Properties, DeletionPolicy }] of [
      [queueId, queue],
      [deadId, dead],
    ] as const) {
      assert.equal(Properties['SqsManagedSseEnabled'], true);
      assert.equal(DeletionPolicy, 'RetainExceptOnCreate');
      template.hasResourceProperties('AWS::SQS::QueuePolicy', {
        Queues: [{ Ref: id }],
        PolicyDocument: {
          Statement: Match.arrayWith([
            Match.objectLike({
              Action: 'sqs:*',
              Effect: 'Deny',
              Condition: { Bool: { 'aws:SecureTransport': 'false' } },
            }),
          ]),
        },
      });
    }
  });

  test('its alarms have the thresholds of the catalog and reach the topic', () => {
    const expected = {
      'oldest-message': [
        'ApproximateAgeOfOldestMessage',
        name,
        'GreaterThanThreshold',
        job.alarms.oldestMessageSeconds,
      ],
      'dead-letters': [
        'ApproximateNumberOfMessagesVisible',
        `${name}-dlq`,
        'GreaterThanOrEqualToThreshold',
        job.alarms.deadLetters,
      ],
      ...(!job.awaitsFunction && {
        errors: ['Errors', name, 'GreaterThanOrEqualToThreshold', 1],
        throttles: ['Throttles', name, 'GreaterThanOrEqualToThreshold', 1],
      }),
    };
    const all = Object.values(template.findResources('AWS::CloudWatch::Alarm')).map(({ Properties }) => Properties.AlarmName);
    const kinds = all.filter((alarm) => alarm.startsWith(`${name}-`)).map((alarm) => alarm.slice(name.length + 1));
    assert.deepEqual(kinds.sort(), Object.keys(expected).sort());
    for (const [kind, values] of Object.entries(expected)) {
      const [, { Properties: alarm }] = one(template, 'AWS::CloudWatch::Alarm', { AlarmName: `${name}-${kind}` });
      assert.deepEqual(
        [alarm['MetricName'], alarm['Dimensions'][0].Value, alarm['ComparisonOperator'], alarm['Threshold']],
        values,
      );
      assert.match(text(alarm['AlarmActions'][0]), /^<yg-observe:.*Alarms/);
      assert.equal(alarm['TreatMissingData'], 'notBreaching');
    }
  });
}

/** Of a job that awaits its function. */
function absenceChecks(job: JobDeclaration, app: ReturnType<typeof deployment>): void {
  test('there is nothing but the queues and their alarms', () => {
    const template = templateOf(app, job.domain);
    const [queueId] = one(template, 'AWS::SQS::Queue', { QueueName: `yg-${job.name}` });
    const arn = { 'Fn::GetAtt': [queueId, 'Arn'] };
    assert.deepEqual(template.findResources('AWS::Lambda::Function', { Properties: { FunctionName: `yg-${job.name}` } }), {});
    assert.deepEqual(template.findResources('AWS::Lambda::EventSourceMapping', { Properties: { EventSourceArn: arn } }), {});
    assert.deepEqual(template.findResources('AWS::Logs::LogGroup', { Properties: { LogGroupName: `/aws/lambda/yg-${job.name}` } }), {});
  });
}

function checks(job: JobDeclaration, catalog: Catalog, app: ReturnType<typeof deployment>): void {
  const template = templateOf(app, job.domain);
  const name = `yg-${job.name}`;
  const [queueId] = one(template, 'AWS::SQS::Queue', { QueueName: name });
  const [deadId] = one(template, 'AWS::SQS::Queue', { QueueName: `${name}-dlq` });
  const [functionId, { Properties: fn }] = one(template, 'AWS::Lambda::Function', { FunctionName: name });
  const roleId = fn['Role']['Fn::GetAtt'][0];
  const statements = statementsOf(template, roleId);
  const allowed = statements.filter(({ effect }) => effect === 'Allow');

  test('the event source reports failures by message and bounds the concurrency', () => {
    const [, { Properties: source }] = one(template, 'AWS::Lambda::EventSourceMapping', {
      FunctionName: { Ref: functionId },
    });
    assert.deepEqual(source['EventSourceArn'], { 'Fn::GetAtt': [queueId, 'Arn'] });
    assert.deepEqual(source['FunctionResponseTypes'], ['ReportBatchItemFailures']);
    assert.deepEqual(source['ScalingConfig'], { MaximumConcurrency: job.concurrency });
    assert.equal(source['BatchSize'], job.batch.size);
    assert.equal(source['MaximumBatchingWindowInSeconds'] ?? 0, job.batch.windowSeconds);
  });

  test('the function has the numbers of the catalog', () => {
    assert.equal(fn['Runtime'], 'provided.al2023');
    assert.equal(fn['Handler'], 'bootstrap');
    assert.deepEqual(fn['Architectures'], ['arm64']);
    assert.equal(fn['Timeout'], job.timeoutSeconds);
    assert.equal(fn['MemorySize'], job.memoryMb);
    assert.deepEqual(fn['EphemeralStorage'], { Size: job.ephemeralStorageMb });
    assert.equal(fn['RecursiveLoop'], 'Allow');
    assert.equal('ReservedConcurrentExecutions' in fn, false);
  });

  test('its variables are those of what it uses, and no others', () => {
    const expected = new Set([...COMMON_VARIABLES, ...job.uses.flatMap((use) => VARIABLES[use] ?? [])]);
    assert.deepEqual(Object.keys(fn['Environment'].Variables).sort(), [...expected].sort());
  });

  test('only a job with media has ffmpeg', () => {
    const layers = (fn['Layers'] ?? []).map(({ Ref }: { Ref: string }) => template.toJSON()['Resources'][Ref].Properties.LayerName);
    assert.deepEqual(layers, job.uses.includes('media') ? [`yg-${job.domain}-ffmpeg`] : []);
  });

  test('only a job with a database stands in the network', () => {
    assert.equal('VpcConfig' in fn, job.uses.includes('database'));
  });

  test('its permissions are those of what it uses, and no others', () => {
    const actions = allowed.flatMap((statement) => statement.actions);
    const expected = new Set([...OWN, ...job.uses.flatMap((use) => PERMISSIONS[use] ?? [])]);
    assert.deepEqual([...new Set(actions)].sort(), [...expected].sort());
    assert.equal('ManagedPolicyArns' in (template.toJSON()['Resources'][roleId].Properties as object), false);
  });

  test('it sends to its own queues and to those that it declares', () => {
    const everything = catalog.jobs.flatMap((each) => [each.name, `${each.name}-dlq`]);
    const declared = job.sendsTo.includes('*') ? everything : job.sendsTo;
    const queues = new Set([job.name, `${job.name}-dlq`, ...declared].map(queueArn));
    assert.deepEqual(resourcesOf('sqs:SendMessage').sort(), [...queues].sort());
    assert.deepEqual(resourcesOf('sqs:ReceiveMessage'), [`<${queueId}.Arn>`]);
  });

  test('a wildcard stands only where no resource can be named', () => {
    for (const { actions, resources } of allowed) {
      if (resources.includes('*'))
        assert.deepEqual(
          actions.filter((action) => !WITHOUT_RESOURCE.includes(action)),
          [],
        );
      const wild = resources.filter((resource) => resource !== '*' && resource.includes('*'));
      assert.deepEqual(
        wild.filter((resource) => !resource.startsWith('arn:<AWS::Partition>:s3:::yg-assets-')),
        [],
      );
      assert.deepEqual(
        actions.filter((action) => action.includes('*')),
        [],
      );
    }
  });

  test('it reads and writes the objects that it is for, and no others', () => {
    const bucket = 'arn:<AWS::Partition>:s3:::yg-assets-<AWS::AccountId>-<AWS::Region>';
    const may = (action: string) => [...new Set(resourcesOf(action).map((resource) => resource.replace(bucket, '')))].sort();
    const processes = job.uses.includes('storage');
    const deletes = job.uses.includes('storage-deletion');
    assert.deepEqual(may('s3:GetObject'), [...(deletes ? ['/*'] : []), ...(processes ? ['/assets/*'] : [])]);
    assert.deepEqual(may('s3:PutObject'), processes ? ['/derived/*'] : []);
    assert.deepEqual(may('s3:AbortMultipartUpload'), processes ? ['/derived/*'] : []);
    assert.deepEqual(may('s3:DeleteObject'), deletes ? ['/*'] : []);
    assert.deepEqual(may('s3:ListBucket'), processes || deletes ? [''] : []);
  });

  test('mail leaves by our identity, our configuration sets and our address', () => {
    const sends = allowed.filter(({ actions }) => actions.some((action) => action.startsWith('ses:Send')));
    assert.equal(sends.length, job.uses.includes('mail') ? 1 : 0);
    for (const { resources, conditions } of sends) {
      assert.deepEqual(resources.map((resource) => resource.replace(/^.*<AWS::AccountId>:|\/.*$/g, '')).sort(), [
        'configuration-set',
        'configuration-set',
        'configuration-set',
        'identity',
      ]);
      assert.deepEqual(conditions, { StringEquals: { 'ses:FromAddress': 'notifications@mail.example.com' } });
    }
  });

  test('it signs in to the database as one role', () => {
    const signsIn = resourcesOf('rds-db:connect').map((resource) => resource.replace(/<6 of .*Proxy.*>/, '<proxy>'));
    const expected = 'arn:<AWS::Partition>:rds-db:<AWS::Region>:<AWS::AccountId>:dbuser:<proxy>/jobs';
    assert.deepEqual(signsIn, job.uses.includes('database') ? [expected] : []);
  });

  test("the function's code may not touch the network that Lambda attaches it to", () => {
    const denied = statements.filter(({ effect }) => effect === 'Deny');
    assert.equal(denied.length, job.uses.includes('database') ? 1 : 0);
    for (const { actions } of denied) assert.deepEqual(actions, ATTACH);
  });

  test('each schedule puts its message on the queue', () => {
    for (const schedule of job.schedules) {
      const [, { Properties }] = one(template, 'AWS::Scheduler::Schedule', { Name: `${name}-${schedule.name}` });
      assert.equal(Properties['ScheduleExpression'], schedule.expression);
      assert.equal(Properties['ScheduleExpressionTimezone'], schedule.timezone);
      assert.deepEqual(Properties['FlexibleTimeWindow'], { Mode: 'OFF' });
      assert.equal(Properties['State'], 'ENABLED');
      const { Target: target } = Properties;
      assert.deepEqual(target.Arn, { 'Fn::GetAtt': [queueId, 'Arn'] });
      assert.deepEqual(JSON.parse(target.Input), schedule.message);
      assert.deepEqual(target.DeadLetterConfig, { Arn: { 'Fn::GetAtt': [deadId, 'Arn'] } });
      assert.deepEqual(target.RetryPolicy, { MaximumEventAgeInSeconds: 3600, MaximumRetryAttempts: 185 });

      const role = target.RoleArn['Fn::GetAtt'][0];
      const may = statementsOf(template, role)
        .map(({ actions, resources }) => [actions, resources])
        .flat(2);
      assert.deepEqual(new Set(may), new Set(['sqs:SendMessage', `<${queueId}.Arn>`, `<${deadId}.Arn>`]));
      template.hasResourceProperties('AWS::IAM::Role', {
        AssumeRolePolicyDocument: {
          Statement: [
            {
              Action: 'sts:AssumeRole',
              Effect: 'Allow',
              Principal: { Service: 'scheduler.amazonaws.com' },
              Condition: {
                StringEquals: { 'aws:SourceAccount': { Ref: 'AWS::AccountId' }, 'aws:SourceArn': Match.anyValue() },
              },
            },
          ],
        },
      });
    }
    const all = template.findResources('AWS::Scheduler::Schedule', {
      Properties: { Target: { Arn: { 'Fn::GetAtt': [queueId, 'Arn'] } } },
    });
    assert.equal(Object.keys(all).length, job.schedules.length);
  });

  test('the messages of its topics come to the queue as they are, and nobody else may send there by policy', () => {
    const subscriptions = Object.values(template.findResources('AWS::SNS::Subscription')).filter(
      ({ Properties }) => text(Properties.Endpoint) === `<${queueId}.Arn>`,
    );
    assert.equal(subscriptions.length, job.topics.length);
    for (const { Properties } of subscriptions) {
      assert.equal(Properties.Protocol, 'sqs');
      assert.equal(Properties.RawMessageDelivery, true);
      assert.match(text(Properties.TopicArn), /^<yg-data:.*Feedback/);
      assert.deepEqual(Properties.RedrivePolicy, { deadLetterTargetArn: { 'Fn::GetAtt': [deadId, 'Arn'] } });
      assert.deepEqual(Properties.FilterPolicy, { eventType: [{ exists: true }] });
      assert.equal(Properties.FilterPolicyScope, 'MessageBody');
    }
    for (const id of [queueId, deadId]) {
      const [, { Properties: policy }] = one(template, 'AWS::SQS::QueuePolicy', { Queues: [{ Ref: id }] });
      const allowed = policy['PolicyDocument'].Statement.filter(({ Effect }: any) => Effect === 'Allow');
      assert.equal(allowed.length, job.topics.length);
      for (const { Action, Condition, Principal } of allowed) {
        assert.deepEqual([Action, Principal], ['sqs:SendMessage', { Service: 'sns.amazonaws.com' }]);
        assert.match(text(Condition.ArnEquals['aws:SourceArn']), /^<yg-data:.*Feedback/);
      }
    }
  });

  test('its log is kept as long as the catalog says', () => {
    const [id, log] = one(template, 'AWS::Logs::LogGroup', { LogGroupName: `/aws/lambda/${name}` });
    assert.equal(log.Properties['RetentionInDays'], job.logRetentionDays);
    assert.deepEqual(fn['LoggingConfig'], { LogGroup: { Ref: id } });
    assert.deepEqual(resourcesOf('logs:PutLogEvents'), [`<${id}.Arn>`]);
  });

  function resourcesOf(action: string): string[] {
    return allowed.filter(({ actions }) => actions.includes(action)).flatMap(({ resources }) => resources);
  }
}
