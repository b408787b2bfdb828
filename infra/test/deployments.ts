import { mkdirSync, mkdtempSync, writeFileSync } from 'node:fs';
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

/** The app for a target, with stand-ins for the functions' code. */
export function deployment(
  target: Target,
  { catalog = readCatalog(), context = {}, ...props }: AppProps & { catalog?: Catalog } = {},
): JobsApp {
  return new JobsApp({ ...props, context: { assets: placeholders(catalog), ...CONTEXT[target], ...context } }, catalog);
}

function placeholders(catalog: Catalog): string {
  const folder = mkdtempSync(join(tmpdir(), 'bootstraps-'));
  for (const { name } of functionsOf(catalog)) {
    mkdirSync(join(folder, name));
    writeFileSync(join(folder, name, 'bootstrap.zip'), name);
  }
  return folder;
}
