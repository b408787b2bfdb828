import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { AppProps } from 'aws-cdk-lib';
import { type Catalog, functionsOf, readCatalog } from '../lib/catalog.ts';
import { JobsApp } from '../lib/jobs-app.ts';

/** What a person types with `-c` for each target. */
const CONTEXT = {
  aws: {
    appUrl: 'https://app.example.com',
    emailFromAddress: 'notifications@mail.example.com',
    emailPostalAddress: 'Example Ltd, 1 High Street, London',
    alarmEmail: 'operators@example.com',
  },
  local: {
    target: 'local',
    architecture: 'arm64',
    endpointUrl: 'http://127.0.0.1:4566',
    databaseUrl: 'postgres://jobs@127.0.0.1:5432/jobs',
  },
};

export type Target = keyof typeof CONTEXT;

const scratches: string[] = [];
process.on('exit', () => {
  for (const folder of scratches) rmSync(folder, { recursive: true });
});

/** A folder that goes with this process. */
export function scratch(name: string): string {
  const folder = mkdtempSync(join(tmpdir(), `${name}-`));
  scratches.push(folder);
  return folder;
}

const LAYERS = layers();

/** The app for a target, with stand-ins for the functions' code and for ffmpeg. */
export function deployment(
  target: Target,
  { catalog = readCatalog(), context = {}, ...props }: AppProps & { catalog?: Catalog } = {},
): JobsApp {
  const standIns = { assets: placeholders(catalog), layers: LAYERS };
  return new JobsApp({ ...props, context: { ...standIns, ...CONTEXT[target], ...context } }, catalog);
}

function placeholders(catalog: Catalog): string {
  const folder = scratch('bootstraps');
  for (const { name } of functionsOf(catalog)) {
    mkdirSync(join(folder, name));
    writeFileSync(join(folder, name, 'bootstrap.zip'), name);
  }
  return folder;
}

function layers(): string {
  const folder = scratch('layers');
  const bin = join(folder, 'ffmpeg-arm64', 'bin');
  mkdirSync(bin, { recursive: true });
  for (const name of ['ffmpeg', 'ffprobe']) writeFileSync(join(bin, name), name);
  return folder;
}
