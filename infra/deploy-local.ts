/**
 * Deploys the app into the local engine and prints the outputs as one line of JSON; with `--remove` takes it away.
 *
 * Not `cdk deploy`: it needs a bootstrap stack and many times as long, and could not work round what the engine lacks.
 */
import { readFileSync } from 'node:fs';
import { resolve } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { AssetManifestArtifact, type CloudFormationStackArtifact } from 'aws-cdk-lib/cx-api';
import { readCatalog } from './lib/catalog.ts';
import { urlOutput } from './lib/endpoint.ts';
import { JobsApp } from './lib/jobs-app.ts';

process.on('uncaughtException', (error) => {
  // Our own errors say what to do; where they were thrown is of no use to the reader.
  console.error(error.constructor === Error ? error.message : error);
  process.exit(1);
});

const endpoint = required('AWS_ENDPOINT_URL').replace(/\/$/, '');
const region = process.env['AWS_REGION'] ?? 'us-east-1';
const accessKey = process.env['AWS_ACCESS_KEY_ID'] ?? 'test';
// The engine's own rule.
const account = /^\d{12}$/.test(accessKey) ? accessKey : '000000000000';

const app = new JobsApp({
  outdir: fileURLToPath(new URL(`../target/local/cdk.out/${account}`, import.meta.url)),
  treeMetadata: false,
  // Half of the time; the tests do it.
  builtinCloudFormationValidation: false,
  context: {
    target: 'local',
    endpointUrl: endpoint,
    databaseUrl: required('DATABASE_URL'),
    queuePrefix: process.env['QUEUE_PREFIX'],
    assets: process.env['LAMBDA_ASSETS'],
    layers: process.env['LAMBDA_LAYERS'],
    architecture: process.env['ARCHITECTURE'],
    // Files are uploaded from where they are: no copy of each in the output.
    'aws:cdk:disable-asset-staging': true,
  },
});
const { prefix } = app.settings;
const bucket = `${prefix}deployment-${account}`;

if (process.argv.includes('--remove')) {
  for (const stack of app.synth().stacks.toReversed()) {
    await cloudFormation('DeleteStack', { StackName: stack.stackName });
    await settled(stack.stackName);
  }
  process.exit();
}

await s3('PUT');
const endpoints: Record<string, string> = {};
const outputs: Record<string, unknown> = { QUEUE_PREFIX: prefix, ENDPOINTS: endpoints };
for (const stack of app.synth().stacks) {
  await upload(stack);
  console.error(`${stack.stackName}: ${await deploy(stack)}`);
  const deployed = await describe(stack.stackName);
  if (stack.id === 'Data') outputs['ASSETS_BUCKET'] = deployed?.output('AssetsBucket');
  for (const { name, domain } of readCatalog().endpoints) {
    const url = domain === stack.id && deployed?.output(urlOutput(name));
    // AWS finds an endpoint by its host, the engine by the first part of the path: nobody's DNS knows that host.
    if (url) endpoints[name] = `${endpoint}/_aws/lambda-url/${new URL(url).host.split('.')[0]}/`;
  }
}
console.log(JSON.stringify(outputs));

/** Brings the code of a stack's functions to where its template looks for it. The key is a hash of the content. */
async function upload(stack: CloudFormationStackArtifact): Promise<void> {
  for (const manifest of stack.dependencies.filter(AssetManifestArtifact.isAssetManifestArtifact)) {
    for (const { source, destinations } of Object.values(manifest.contents.files ?? {})) {
      const [destination] = Object.values(destinations);
      if (!source.path?.endsWith('.zip') || !destination) continue;
      if ((await s3('HEAD', destination.objectKey)).ok) continue;
      await s3('PUT', destination.objectKey, readFileSync(resolve(stack.assembly.directory, source.path)));
    }
  }
}

async function deploy(stack: CloudFormationStackArtifact): Promise<string> {
  const key = `${stack.stackName}.template.json`;
  await s3('PUT', key, JSON.stringify(workRound(stack.template)));
  const parameters = {
    StackName: stack.stackName,
    TemplateURL: `${endpoint}/${bucket}/${key}`,
    'Capabilities.member.1': 'CAPABILITY_NAMED_IAM',
  };

  let before = await describe(stack.stackName);
  if (before && !/^(CREATE|UPDATE|UPDATE_ROLLBACK)_COMPLETE$/.test(before.status)) {
    await cloudFormation('DeleteStack', { StackName: stack.stackName });
    before = await settled(stack.stackName);
  }
  const answer = await cloudFormation(before ? 'UpdateStack' : 'CreateStack', parameters);
  if (answer.includes('No updates are to be performed')) return 'unchanged';
  if (answer.includes('<Error>')) throw new Error(`${stack.stackName}: ${answer}`);
  const after = await settled(stack.stackName);
  if (!/^(CREATE|UPDATE)_COMPLETE$/.test(after?.status ?? '')) {
    const events = await cloudFormation('DescribeStackEvents', { StackName: stack.stackName });
    const reasons = new Set(texts(events, 'ResourceStatusReason').filter(Boolean));
    throw new Error(`${stack.stackName}: ${after?.status}: ${[...reasons].join('\n')}`);
  }
  return before ? 'updated' : 'created';
}

interface Template {
  Resources: Record<string, { Type: string; Properties?: { Target?: Record<string, unknown> } }>;
}

/**
 * The engine's scheduler hands `<aws.scheduler.scheduled-time>` on as it stands, but honours an input transformer as
 * EventBridge rules have one. The time is then that of the firing, some seconds after the slot.
 */
function workRound(template: Template): Template {
  for (const { Type, Properties } of Object.values(template.Resources)) {
    const target = Properties?.Target;
    if (Type !== 'AWS::Scheduler::Schedule' || typeof target?.['Input'] !== 'string') continue;
    target['InputTransformer'] = {
      InputPathsMap: { time: '$.time' },
      InputTemplate: target['Input'].replaceAll('<aws.scheduler.scheduled-time>', '<time>'),
    };
  }
  return template;
}

interface Stack {
  readonly status: string;
  output(key: string): string | undefined;
}

async function describe(stackName: string): Promise<Stack | undefined> {
  const answer = await cloudFormation('DescribeStacks', { StackName: stackName });
  const [status] = texts(answer, 'StackStatus');
  if (!status || status === 'DELETE_COMPLETE') return undefined;
  const keys = texts(answer, 'OutputKey');
  return { status, output: (key) => texts(answer, 'OutputValue')[keys.indexOf(key)] };
}

async function settled(stackName: string): Promise<Stack | undefined> {
  for (;;) {
    const stack = await describe(stackName);
    if (!stack?.status.endsWith('_IN_PROGRESS')) return stack;
    await sleep(20);
  }
}

async function cloudFormation(action: string, parameters: Record<string, string>): Promise<string> {
  const body = new URLSearchParams({ Action: action, Version: '2010-05-15', ...parameters });
  const answer = await fetch(endpoint, { method: 'POST', headers: authorization('cloudformation'), body });
  return answer.text();
}

async function s3(method: string, key = '', body?: string | Buffer): Promise<Response> {
  const answer = await fetch(`${endpoint}/${bucket}/${key}`, {
    method,
    headers: authorization('s3'),
    body: body ?? null,
  });
  if (!answer.ok && method === 'PUT') throw new Error(`${method} ${key}: ${answer.status} ${await answer.text()}`);
  return answer;
}

/** The engine reads account, region and service out of the credential; it verifies no signature. */
function authorization(service: string): Record<string, string> {
  const scope = `${accessKey}/20260101/${region}/${service}/aws4_request`;
  return { Authorization: `AWS4-HMAC-SHA256 Credential=${scope}, SignedHeaders=host, Signature=0` };
}

/** The texts of all elements of that name. */
function texts(xml: string, element: string): string[] {
  return [...xml.matchAll(new RegExp(`<${element}>([^<]*)</${element}>`, 'g'))].map((match) => match[1] ?? '');
}

function required(name: string): string {
  const value = process.env[name];
  if (!value) throw new Error(`${name} is not set`);
  return value;
}
