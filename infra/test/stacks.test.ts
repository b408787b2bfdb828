import assert from 'node:assert/strict';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { pathToFileURL } from 'node:url';
import { Stack } from 'aws-cdk-lib';
import { Bucket } from 'aws-cdk-lib/aws-s3';
import { Match } from 'aws-cdk-lib/assertions';
import { audit } from '../lib/audit.ts';
import { type Catalog, readCatalog } from '../lib/catalog.ts';
import { deployment, scratch } from './deployments.ts';
import { EXAMPLE } from './example.ts';
import { one, templateOf, text } from './template.ts';

const catalog = readCatalog();
const unvalidated = { builtinCloudFormationValidation: false };
const aws = deployment('aws', unvalidated);
const local = deployment('local', unvalidated);

test('cdk-nag and the validation of CDK find nothing in the catalog', () => {
  audit(deployment('aws')).synth();
});

test('cdk-nag finds nothing where every capability is used', () => {
  audit(deployment('aws', { catalog: EXAMPLE, ...unvalidated })).synth();
});

test('cdk-nag stops a careless resource', () => {
  const app = audit(deployment('aws', { catalog: EXAMPLE, ...unvalidated }));
  new Bucket(app.node.findChild('assets'), 'Careless');
  assert.throws(() => app.synth(), /Validation failed/);
});

test('the template of a domain is the one that was reviewed', () => {
  const app = deployment('aws', { catalog: EXAMPLE, ...unvalidated });
  const template = JSON.stringify(templateOf(app, 'assets').toJSON(), undefined, 2);
  snapshot('assets.template.json', template.replaceAll(/[0-9a-f]{64}\.zip/g, '<hash>.zip'));
});

test('there is a stack for each domain, and none is near the limit of resources', () => {
  const stacks = aws.node.children.filter(Stack.isStack);
  assert.deepEqual(
    new Set(stacks.map(({ stackName }) => stackName)),
    new Set(['yg-data', 'yg-observe', ...catalog.jobs.map(({ domain }) => `yg-${domain}`)]),
  );
  for (const { node } of stacks) {
    assert.ok(Object.keys(templateOf(aws, node.id).toJSON()['Resources']).length < 400, node.id);
  }
});

test('both targets have the same resources for every job', () => {
  for (const domain of new Set(catalog.jobs.map((job) => job.domain))) {
    const types = (app: typeof aws) =>
      Object.entries(templateOf(app, domain).toJSON()['Resources'])
        .map(([id, { Type }]: any) => `${id} ${Type}`)
        // The local engine mounts none.
        .filter((resource) => !resource.endsWith(' AWS::Lambda::LayerVersion'));
    assert.deepEqual(types(local), types(aws));
  }
});

test('the database is encrypted, protected and reached by IAM and TLS only', () => {
  const data = templateOf(aws, 'Data');
  const [, cluster] = one(data, 'AWS::RDS::DBCluster');
  assert.equal(cluster.DeletionPolicy, 'Snapshot');
  const { Properties } = cluster;
  assert.equal(Properties['StorageEncrypted'], true);
  assert.equal(Properties['DeletionProtection'], true);
  assert.equal(Properties['EnableIAMDatabaseAuthentication'], true);
  assert.equal(Properties['ManageMasterUserPassword'], true);
  data.hasResourceProperties('AWS::RDS::DBProxy', {
    RequireTLS: true,
    DefaultAuthScheme: 'IAM_AUTH',
    Auth: Match.absent(),
  });
  data.allResourcesProperties('AWS::RDS::DBInstance', { DBInstanceClass: 'db.serverless', PubliclyAccessible: false });
});

test('functions sign in to the proxy as one role, without a password', () => {
  const [, { Properties: fn }] = one(templateOf(aws, 'system'), 'AWS::Lambda::Function', {
    FunctionName: 'yg-outbox-relay',
  });
  const { DATABASE_URL, DATABASE_AUTH } = fn['Environment'].Variables;
  assert.match(
    text(DATABASE_URL),
    /^postgres:\/\/jobs@<yg-data:.*Proxy.*Endpoint.*>:5432\/yesgoddess\?sslmode=verify-full$/,
  );
  assert.equal(DATABASE_AUTH, 'iam');
});

test('the network has no way to the internet, and one to each service that jobs call', () => {
  const data = templateOf(aws, 'Data');
  data.resourceCountIs('AWS::EC2::NatGateway', 0);
  data.resourceCountIs('AWS::EC2::InternetGateway', 0);
  const endpoints = Object.values(data.findResources('AWS::EC2::VPCEndpoint'));
  const services = endpoints.map(({ Properties }) =>
    text(Properties.ServiceName).replace('com.amazonaws.<AWS::Region>.', ''),
  );
  assert.deepEqual(services.sort(), ['email', 's3', 'sqs']);
});

test('the functions reach the endpoints and the proxy, the proxy reaches the database, and nobody else anything', () => {
  const data = templateOf(aws, 'Data');
  for (const group of Object.values(data.findResources('AWS::EC2::SecurityGroup'))) {
    assert.equal('SecurityGroupIngress' in group['Properties'], false);
  }
  const rules = Object.values(data.findResources('AWS::EC2::SecurityGroupIngress')).map(({ Properties: rule }) => {
    const name = (group: unknown) =>
      text(group)
        .replace(/^<Database(Vpc|Proxy)?/, '')
        .replace(/(SecurityGroup)?[0-9A-F]{8}\.GroupId>$/, '');
    return `${name(rule['SourceSecurityGroupId'])} > ${name(rule['GroupId'])}`;
  });
  assert.deepEqual(rules.sort(), ['Functions > Proxy', 'Functions > Ses', 'Functions > Sqs', 'Proxy > Cluster']);
});

test('the buckets are private, encrypted, refuse plain HTTP and outlive the stack', () => {
  const data = templateOf(aws, 'Data');
  const buckets = data.findResources('AWS::S3::Bucket');
  assert.equal(Object.keys(buckets).length, 2);
  for (const [id, bucket] of Object.entries(buckets)) {
    assert.equal(bucket['DeletionPolicy'], 'RetainExceptOnCreate');
    assert.equal(Object.values(bucket['Properties'].PublicAccessBlockConfiguration).every(Boolean), true);
    assert.ok(bucket['Properties'].BucketEncryption);
    data.hasResourceProperties('AWS::S3::BucketPolicy', {
      Bucket: { Ref: id },
      PolicyDocument: {
        Statement: Match.arrayWith([
          Match.objectLike({ Effect: 'Deny', Condition: { Bool: { 'aws:SecureTransport': 'false' } } }),
        ]),
      },
    });
  }
});

test('what nobody needs any more leaves the bucket by itself, old versions last', () => {
  for (const app of [aws, local]) {
    const name = { 'Fn::Join': ['', ['yg-assets-', { Ref: 'AWS::AccountId' }, '-', { Ref: 'AWS::Region' }]] };
    const [, { Properties: bucket }] = one(templateOf(app, 'Data'), 'AWS::S3::Bucket', { BucketName: name });
    assert.equal(bucket['VersioningConfiguration'].Status, 'Enabled');
    const rules = bucket['LifecycleConfiguration'].Rules as any[];
    const [whole] = rules.filter(({ Prefix }) => !Prefix);
    assert.equal(whole.AbortIncompleteMultipartUpload.DaysAfterInitiation, 1);
    assert.equal(whole.NoncurrentVersionExpiration.NoncurrentDays, 30);
    assert.equal(whole.ExpiredObjectDeleteMarker, true);
    const prefixes = rules.filter(({ Prefix }) => Prefix).map(({ Prefix, ExpirationInDays }) => `${Prefix} ${ExpirationInDays}`);
    assert.deepEqual(prefixes.sort(), ['temp/ 1', 'uploads/ 14']);
  }
});

test('mail is signed by the domain of its sender and leaves by three lanes', () => {
  for (const [app, domain] of [
    [aws, 'mail.example.com'],
    [local, 'yesgoddess.test'],
  ] as const) {
    const data = templateOf(app, 'Data');
    data.hasResourceProperties('AWS::SES::EmailIdentity', {
      EmailIdentity: domain,
      MailFromAttributes: { MailFromDomain: `bounce.${domain}` },
    });
    const sets = Object.values(data.findResources('AWS::SES::ConfigurationSet')).map(({ Properties }) => Properties);
    assert.deepEqual(sets.map(({ Name }) => Name).sort(), ['yg-bulk', 'yg-bulk-untracked', 'yg-transactional']);
    for (const set of sets) {
      assert.deepEqual(set.DeliveryOptions, { TlsPolicy: 'REQUIRE' });
      assert.deepEqual(set.SuppressionOptions, { SuppressedReasons: ['BOUNCE'] });
    }
  }
});

test('SES tells the topic of every mail what became of it, and opens and clicks only where tracking is allowed', () => {
  for (const app of [aws, local]) {
    const data = templateOf(app, 'Data');
    const [topic, { Properties }] = one(data, 'AWS::SNS::Topic', { TopicName: 'yg-mail-feedback' });
    assert.equal(Properties['TopicName'], 'yg-mail-feedback');
    const told = Object.values(data.findResources('AWS::SES::ConfigurationSetEventDestination')).map(
      ({ Properties: { ConfigurationSetName, EventDestination } }) => {
        assert.deepEqual(EventDestination.SnsDestination, { TopicARN: { Ref: topic } });
        assert.equal(EventDestination.Enabled, true);
        const set = data.toJSON()['Resources'][ConfigurationSetName.Ref].Properties.Name;
        return [set, EventDestination.MatchingEventTypes.toSorted().join(' ')];
      },
    );
    const always = 'bounce complaint delivery deliveryDelay reject renderingFailure send subscription';
    assert.deepEqual(told.sort(), [
      ['yg-bulk', always.replace('complaint', 'click complaint').replace('reject', 'open reject')],
      ['yg-bulk-untracked', always],
      ['yg-transactional', always],
    ]);
  }
});

test('SES alone may publish to the topic, for our own configuration sets, and nobody without TLS', () => {
  const data = templateOf(aws, 'Data');
  const [topic] = one(data, 'AWS::SNS::Topic');
  const [, { Properties: policy }] = one(data, 'AWS::SNS::TopicPolicy', { Topics: [{ Ref: topic }] });
  const statements = policy['PolicyDocument'].Statement as any[];
  const [deny, ...allowed] = statements.toSorted((a, b) => b.Effect.localeCompare(a.Effect));
  assert.deepEqual([deny.Effect, deny.Condition], ['Deny', { Bool: { 'aws:SecureTransport': 'false' } }]);
  assert.equal(allowed.length, 3);
  for (const { Action, Principal, Condition } of allowed) {
    assert.deepEqual([Action, Principal], ['sns:Publish', { Service: 'ses.amazonaws.com' }]);
    const { 'AWS:SourceAccount': account, 'AWS:SourceArn': source } = Condition.StringEquals;
    assert.deepEqual(account, { Ref: 'AWS::AccountId' });
    assert.match(text(source), /:configuration-set\/<Mail.*>$/);
  }
});

test('the unsubscribe key stands in no template', () => {
  const [, { Properties: fn }] = one(templateOf(aws, 'notifications'), 'AWS::Lambda::Function', {
    FunctionName: 'yg-notification-delivery',
  });
  assert.match(
    text(fn['Environment'].Variables.UNSUBSCRIBE_KEY),
    /^{{resolve:secretsmanager:<yg-data:.*>:SecretString:::}}$/,
  );
});

test('the local engine gets a bucket, mail and its topic, and no network, database or secret', () => {
  const types = new Set(Object.values(templateOf(local, 'Data').toJSON()['Resources']).map(({ Type }: any) => Type));
  assert.deepEqual([...types].sort(), [
    'AWS::S3::Bucket',
    'AWS::S3::BucketPolicy',
    'AWS::SES::ConfigurationSet',
    'AWS::SES::ConfigurationSetEventDestination',
    'AWS::SES::EmailIdentity',
    'AWS::SNS::Topic',
    'AWS::SNS::TopicPolicy',
  ]);
  const [, { Properties: fn }] = one(templateOf(local, 'notifications'), 'AWS::Lambda::Function', {
    FunctionName: 'yg-notification-delivery',
  });
  const variables = fn['Environment'].Variables;
  assert.equal(variables.DATABASE_URL, 'postgres://jobs@127.0.0.1:5432/jobs');
  assert.equal('DATABASE_AUTH' in variables, false);
  assert.equal(text(variables.QUEUE_URL_PREFIX), 'http://127.0.0.1:4566/<AWS::AccountId>/yg-');
});

test('the functions of a stack share one ffmpeg, of their architecture and from nobody else', () => {
  const jobs = EXAMPLE.jobs.map((job) => ({ ...job, uses: ['media'] }));
  const [drawing] = jobs;
  const elsewhere = { ...drawing!, name: 'chart-drawing', domain: 'analytics', sendsTo: [], topics: [] };
  const app = deployment('aws', { catalog: { ...EXAMPLE, jobs: [...jobs, elsewhere] }, ...unvalidated });
  for (const [domain, users] of [['assets', 2], ['analytics', 1]] as const) {
    const template = templateOf(app, domain);
    const [id, { Properties: layer }] = one(template, 'AWS::Lambda::LayerVersion');
    assert.deepEqual(layer['CompatibleArchitectures'], ['arm64']);
    assert.deepEqual(layer['CompatibleRuntimes'], ['provided.al2023']);
    assert.equal(layer['LicenseInfo'], 'GPL-3.0-or-later');
    const having = Object.values(template.findResources('AWS::Lambda::Function', { Properties: { Layers: [{ Ref: id }] } }));
    assert.equal(having.length, users);
    for (const { Properties: fn } of having) {
      assert.deepEqual(fn.Architectures, layer['CompatibleArchitectures']);
      assert.equal(fn.Environment.Variables.FFMPEG_BIN, '/opt/bin/ffmpeg');
      assert.equal(fn.Environment.Variables.FFPROBE_BIN, '/opt/bin/ffprobe');
    }
  }
});

test('local functions run the files that the layer is made of', () => {
  const template = templateOf(deployment('local', { catalog: EXAMPLE, ...unvalidated }), 'assets');
  template.resourceCountIs('AWS::Lambda::LayerVersion', 0);
  const [, { Properties: fn }] = one(template, 'AWS::Lambda::Function', { FunctionName: 'yg-thumbnail-drawing' });
  for (const [variable, program] of [['FFMPEG_BIN', 'ffmpeg'], ['FFPROBE_BIN', 'ffprobe']] as const) {
    const file = fn['Environment'].Variables[variable];
    assert.match(file, new RegExp(`^/.*/ffmpeg-arm64/bin/${program}$`));
    assert.equal(readFileSync(file, 'utf8'), program);
  }
});

test('the dashboard shows every function and each of its alarms', () => {
  const observe = templateOf(aws, 'Observe');
  const [, { Properties }] = one(observe, 'AWS::CloudWatch::Dashboard');
  const body = text(Properties['DashboardBody']);
  for (const { name, awaitsFunction } of catalog.jobs) {
    assert.equal(body.includes(`"FunctionName","yg-${name}"`), !awaitsFunction, name);
    assert.ok(body.includes(`"QueueName","yg-${name}-dlq"`), name);
    for (const alarm of ['oldest-message', 'dead-letters']) assert.ok(body.includes(`:alarm:yg-${name}-${alarm}"`), alarm);
    for (const alarm of ['errors', 'throttles']) {
      assert.equal(body.includes(`:alarm:yg-${name}-${alarm}"`), !awaitsFunction, alarm);
    }
  }
  for (const { name } of catalog.endpoints) {
    assert.ok(body.includes(`"FunctionName","yg-${name}"`), name);
    for (const alarm of ['errors', 'throttles']) assert.ok(body.includes(`:alarm:yg-${name}-${alarm}"`), alarm);
  }
});

test('alarms reach a mailbox when one is given', () => {
  templateOf(aws, 'Observe').hasResourceProperties('AWS::SNS::Subscription', {
    Protocol: 'email',
    Endpoint: 'operators@example.com',
  });
  templateOf(local, 'Observe').resourceCountIs('AWS::SNS::Subscription', 0);
});

test('two deployments share no name', () => {
  const other = deployment('aws', { ...unvalidated, context: { queuePrefix: 'staging-' } });
  const names = (app: typeof aws) =>
    app.node.children.filter(Stack.isStack).flatMap((stack) => [
      stack.stackName,
      ...Object.values(templateOf(app, stack.node.id).toJSON()['Resources']).flatMap(({ Properties = {} }: any) =>
        [
          'QueueName',
          'FunctionName',
          'LayerName',
          'LogGroupName',
          'AlarmName',
          'DashboardName',
          'TopicName',
          'BucketName',
          'DBProxyName',
          'Name',
        ]
          .map((key) => Properties[key])
          // A reference to something else of the same stack is no name.
          .filter((name) => name !== undefined && !name.Ref && !name['Fn::GetAtt'])
          .map(text),
      ),
    ]);
  const ours = new Set(names(aws));
  assert.deepEqual(
    names(other).filter((name) => ours.has(name)),
    [],
  );
});

test('what is missing is named at once', () => {
  const context = { appUrl: undefined, emailFromAddress: undefined, emailPostalAddress: undefined };
  assert.throws(
    () => deployment('aws', { context }),
    /missing context: -c appUrl=… -c emailFromAddress=… -c emailPostalAddress=…/,
  );
  assert.throws(
    () => deployment('local', { context: { databaseUrl: undefined } }),
    /missing context: -c databaseUrl=…/,
  );
});

test('code that is not built is named with the command that builds it', () => {
  assert.throws(
    () => deployment('aws', { context: { assets: '/nowhere' } }),
    /no bootstrap\.zip in \/nowhere for notification-delivery, .*\nbuild it: cargo lambda build --profile deploy --arm64 --output-format zip/,
  );
  assert.throws(() => deployment('aws', { context: { assets: '/nowhere', architecture: 'x86_64' } }), /--x86-64/);
});

test('ffmpeg that is not built is named with the command that builds it', () => {
  for (const target of ['aws', 'local'] as const) {
    const nowhere = { layers: '/nowhere', architecture: 'x86_64' };
    assert.throws(
      () => deployment(target, { catalog: EXAMPLE, context: nowhere }),
      /no ffmpeg in \/nowhere\/ffmpeg-x86_64 for thumbnail-drawing\nbuild it: python3 .*\/build\.py --architecture x86_64 --into \/nowhere$/,
    );
    deployment(target, { catalog: { ...EXAMPLE, jobs: EXAMPLE.jobs.slice(1) }, context: nowhere });
  }
});

test('a wrong target, architecture or prefix is refused', () => {
  assert.throws(() => deployment('aws', { context: { target: 'azure' } }), /neither aws nor local/);
  assert.throws(() => deployment('aws', { context: { architecture: 'riscv' } }), /neither arm64 nor x86_64/);
  assert.throws(() => deployment('aws', { context: { queuePrefix: '' } }), /queuePrefix/);
});

test('a capability or a topic that no stack provides is refused', () => {
  const [job] = EXAMPLE.jobs;
  const unknown = (change: object) => ({ ...EXAMPLE, jobs: [{ ...job, ...change }] }) as Catalog;
  const catalog = unknown({ uses: ['telepathy'] });
  assert.throws(() => deployment('aws', { catalog }), /thumbnail-drawing uses telepathy/);
  const deaf = unknown({ topics: ['gossip'] });
  assert.throws(() => deployment('aws', { catalog: deaf }), /thumbnail-drawing subscribes to gossip/);
});

test('a newer catalog is refused', () => {
  const file = join(scratch('catalog'), 'catalog.json');
  writeFileSync(file, '{"version":2,"jobs":[]}');
  assert.throws(() => readCatalog(pathToFileURL(file)), /catalog version 2 is not 1/);
});

function snapshot(name: string, actual: string): void {
  const file = new URL(`snapshots/${name}`, import.meta.url);
  if (process.env['UPDATE_SNAPSHOTS']) writeFileSync(file, `${actual}\n`);
  assert.equal(`${actual}\n`, readFileSync(file, 'utf8'), 'npm run test:update accepts the change');
}

test('whoever is named hears of suspicious log-ins', () => {
  const app = deployment('aws', { ...unvalidated, context: { securityEmail: 'security@example.com' } });
  const [, { Properties: fn }] = one(templateOf(app, 'accounts'), 'AWS::Lambda::Function', {
    FunctionName: 'yg-failed-login-monitor',
  });
  assert.equal(fn['Environment'].Variables.SECURITY_EMAIL, 'security@example.com');
});
