import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { Architecture } from 'aws-cdk-lib/aws-lambda';
import { type Catalog, type FunctionDeclaration, functionsOf } from './catalog.ts';
import type { Settings } from './settings.ts';

/** The built code of a function. */
export function bootstrap(settings: Settings, { name }: FunctionDeclaration): string {
  return join(settings.assets, name, 'bootstrap.zip');
}

/** Fails once, naming every function that is not built and the command that builds them. */
export function requireBootstraps(settings: Settings, catalog: Catalog): void {
  const missing = functionsOf(catalog).filter((each) => !existsSync(bootstrap(settings, each)));
  if (missing.length === 0) return;
  const architecture = settings.architecture === Architecture.ARM_64 ? '--arm64' : '--x86-64';
  throw new Error(
    `no bootstrap.zip in ${settings.assets} for ${missing.map(({ name }) => name).join(', ')}\n` +
      `build it: cargo lambda build --profile deploy ${architecture} --output-format zip`,
  );
}
