import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { Architecture } from 'aws-cdk-lib/aws-lambda';
import type { Catalog, JobDeclaration } from './catalog.ts';
import type { Settings } from './settings.ts';

/** The built code of a job. */
export function bootstrap(settings: Settings, job: JobDeclaration): string {
  return join(settings.assets, job.name, 'bootstrap.zip');
}

/** Fails once, naming every job that is not built and the command that builds them. */
export function requireBootstraps(settings: Settings, catalog: Catalog): void {
  const missing = catalog.jobs.filter((job) => !existsSync(bootstrap(settings, job)));
  if (missing.length === 0) return;
  const architecture = settings.architecture === Architecture.ARM_64 ? '--arm64' : '--x86-64';
  throw new Error(
    `no bootstrap.zip in ${settings.assets} for ${missing.map((job) => job.name).join(', ')}\n` +
      `build it: cargo lambda build --release ${architecture} --output-format zip`,
  );
}
