import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { type Catalog, type EndpointDeclaration, readCatalog } from '../lib/catalog.ts';
import { deployment } from './deployments.ts';
import { EXAMPLE } from './example.ts';
import { COMMON_VARIABLES, one, statementsOf, templateOf, text } from './template.ts';

for (const [source, catalog] of Object.entries({ catalog: readCatalog(), example: EXAMPLE })) {
  const app = deployment('aws', { catalog, builtinCloudFormationValidation: false });
  for (const endpoint of catalog.endpoints) {
    describe(`${source}: ${endpoint.name}`, () => checks(endpoint, catalog, app));
  }
}

function checks(endpoint: EndpointDeclaration, catalog: Catalog, app: ReturnType<typeof deployment>): void {
  const template = templateOf(app, endpoint.domain);
  const name = `yg-${endpoint.name}`;
  const [functionId, { Properties: fn }] = one(template, 'AWS::Lambda::Function', { FunctionName: name });
  const statements = statementsOf(template, fn['Role']['Fn::GetAtt'][0]);

  test('it has a public URL and no queue', () => {
    const arn = { 'Fn::GetAtt': [functionId, 'Arn'] };
    const [urlId, { Properties: url }] = one(template, 'AWS::Lambda::Url', { TargetFunctionArn: arn });
    assert.equal(url['AuthType'], 'NONE');
    const may = Object.values(template.findResources('AWS::Lambda::Permission')).filter(
      ({ Properties }) => text(Properties.FunctionName) === text(arn),
    );
    assert.ok(may.length > 0);
    for (const { Properties } of may) {
      // By the URL, and by nothing else that calls itself somebody.
      assert.ok(Properties.FunctionUrlAuthType === 'NONE' || Properties.InvokedViaFunctionUrl === true);
    }
    const outputs = Object.values(template.toJSON()['Outputs'] as Record<string, { Value: unknown }>);
    assert.ok(outputs.some(({ Value }) => text(Value) === `<${urlId}.FunctionUrl>`));
    assert.deepEqual(template.findResources('AWS::SQS::Queue', { Properties: { QueueName: name } }), {});
    assert.deepEqual(template.findResources('AWS::Lambda::EventSourceMapping', { Properties: { FunctionName: { Ref: functionId } } }), {});
  });

  test('it has the numbers of the catalog', () => {
    assert.equal(fn['ReservedConcurrentExecutions'], endpoint.concurrency);
    assert.equal(fn['Timeout'], endpoint.timeoutSeconds);
    assert.equal(fn['MemorySize'], endpoint.memoryMb);
    const [, log] = one(template, 'AWS::Logs::LogGroup', { LogGroupName: `/aws/lambda/${name}` });
    assert.equal(log.Properties['RetentionInDays'], endpoint.logRetentionDays);
  });

  test('it may log, send to the queues that it declares, and nothing else', () => {
    const sends = statements.filter(({ actions }) => actions.includes('sqs:SendMessage'));
    const queues = endpoint.sendsTo.map((queue) => `arn:<AWS::Partition>:sqs:<AWS::Region>:<AWS::AccountId>:yg-${queue}`);
    assert.deepEqual(sends.flatMap(({ resources }) => resources).sort(), queues.sort());
    assert.deepEqual(
      [...new Set(statements.flatMap(({ actions }) => actions))].sort(),
      ['logs:CreateLogStream', 'logs:PutLogEvents', 'sqs:SendMessage'],
    );
    const jobs = catalog.jobs.map((job) => job.name);
    assert.deepEqual(endpoint.sendsTo.filter((queue) => !jobs.includes(queue)), []);
  });

  test('it stands outside the network and knows no database', () => {
    assert.equal('VpcConfig' in fn, false);
    const expected = [...COMMON_VARIABLES, 'UNSUBSCRIBE_KEY'];
    assert.deepEqual(Object.keys(fn['Environment'].Variables).sort(), expected);
  });

  test('its alarms reach the topic', () => {
    for (const [kind, metric] of [['errors', 'Errors'], ['throttles', 'Throttles']]) {
      const [, { Properties: alarm }] = one(template, 'AWS::CloudWatch::Alarm', { AlarmName: `${name}-${kind}` });
      assert.deepEqual([alarm['MetricName'], alarm['Dimensions'][0].Value], [metric, name]);
      assert.match(text(alarm['AlarmActions'][0]), /^<yg-observe:.*Alarms/);
    }
  });
}
