import { type App, Validations } from 'aws-cdk-lib';
import { AwsSolutionsChecks } from 'cdk-nag';

/** Makes a finding of cdk-nag fail the synthesis. Exceptions stand, with their reasons, where the resource is made. */
export function audit<T extends App>(app: T): T {
  Validations.of(app).addPlugins(new AwsSolutionsChecks(app));
  return app;
}
