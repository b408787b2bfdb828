import { resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { Architecture } from 'aws-cdk-lib/aws-lambda';
import { Aws, RemovalPolicy } from 'aws-cdk-lib';
import type { Node } from 'constructs';

/** What differs between deployments. Each value is CDK context (`-c name=value`). */
export interface Settings {
  readonly local: boolean;
  /** Begins the name of every queue, function, stack, alarm and bucket. */
  readonly prefix: string;
  readonly architecture: Architecture;
  /** Holds `<job>/bootstrap.zip`, as cargo-lambda lays it out. */
  readonly assets: string;
  /** Holds `ffmpeg-<architecture>`, as `layers/ffmpeg/build.py` lays it out; absolute. */
  readonly layers: string;
  /** A queue's URL without the queue's own name. */
  readonly queueUrlPrefix: string;
  /** Local engine only: on AWS the database is this app's own. */
  readonly databaseUrl: string;
  readonly appUrl: string;
  readonly supportUrl: string | undefined;
  readonly mail: {
    readonly fromName: string;
    readonly fromAddress: string;
    readonly replyTo: string | undefined;
    readonly postalAddress: string;
  };
  /** Subscribed to the alarm topic. */
  readonly alarmEmail: string | undefined;
  /** Who is told of suspicious log-ins, comma-separated; unset, all administrators are. */
  readonly securityEmail: string | undefined;
}

/** Reads the settings; says all that is missing at once. */
export function readSettings(node: Node): Settings {
  const missing: string[] = [];
  const optional = (key: string): string | undefined => node.tryGetContext(key) as string | undefined;
  const required = (key: string): string => optional(key) ?? (missing.push(key), '');

  const target = optional('target') ?? 'aws';
  if (target !== 'aws' && target !== 'local') throw new Error(`target ${target} is neither aws nor local`);
  const local = target === 'local';
  const ours = (key: string, standIn: string): string => (local ? (optional(key) ?? standIn) : required(key));

  const prefix = optional('queuePrefix') ?? 'yg-';
  // Empty, the prefix would let our names collide with any other queue of the account.
  if (!/^[a-z][a-z0-9-]*-$/.test(prefix)) throw new Error(`queuePrefix ${prefix} is not like yg-`);
  const queueHost = local ? required('endpointUrl') : `https://sqs.${Aws.REGION}.${Aws.URL_SUFFIX}`;

  const settings: Settings = {
    local,
    prefix,
    architecture: architecture(optional('architecture') ?? (local && process.arch === 'x64' ? 'x86_64' : 'arm64')),
    assets: optional('assets') ?? fileURLToPath(new URL('../../target/lambda', import.meta.url)),
    layers: resolve(optional('layers') ?? fileURLToPath(new URL('../../target/layers', import.meta.url))),
    queueUrlPrefix: `${queueHost}/${Aws.ACCOUNT_ID}/${prefix}`,
    databaseUrl: local ? required('databaseUrl') : '',
    appUrl: ours('appUrl', 'http://localhost:3000'),
    supportUrl: optional('supportUrl'),
    mail: {
      fromName: optional('emailFromName') ?? 'YES GODDESS',
      fromAddress: ours('emailFromAddress', 'notifications@yesgoddess.test'),
      replyTo: optional('emailReplyTo'),
      postalAddress: ours('emailPostalAddress', 'YES GODDESS, 1 Local Street, Localhost'),
    },
    alarmEmail: optional('alarmEmail'),
    securityEmail: optional('securityEmail'),
  };
  if (missing.length > 0) throw new Error(`missing context: ${missing.map((key) => `-c ${key}=…`).join(' ')}`);
  return settings;
}

function architecture(name: string): Architecture {
  const known = [Architecture.ARM_64, Architecture.X86_64].find((each) => each.name === name);
  if (!known) throw new Error(`architecture ${name} is neither arm64 nor x86_64`);
  return known;
}

/** Nothing that holds messages, files or logs goes away by a deployment; the local engine keeps nothing. */
export function removal(settings: Settings): RemovalPolicy {
  // Except on create: what a failed first deployment leaves behind would stand in the way of the second.
  return settings.local ? RemovalPolicy.DESTROY : RemovalPolicy.RETAIN_ON_UPDATE_OR_DELETE;
}
