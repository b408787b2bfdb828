/** Writes the templates of both targets to `cdk.out/<target>` for cfn-lint. */
import { fileURLToPath } from 'node:url';
import { deployment } from './deployments.ts';

for (const target of ['aws', 'local'] as const) {
  deployment(target, { outdir: fileURLToPath(new URL(`../cdk.out/${target}`, import.meta.url)) }).synth();
}
