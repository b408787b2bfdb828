import { CfnOutput, Tags } from 'aws-cdk-lib';
import * as lambda from 'aws-cdk-lib/aws-lambda';
import type { Construct } from 'constructs';
import type { EndpointDeclaration } from './catalog.ts';
import { DeclaredFunction, type Surroundings } from './function.ts';

/** The output that tells an endpoint's URL, e.g. `UnsubscribeUrl`. */
export function urlOutput(name: string): string {
  const words = name.split('-').map((word) => word.charAt(0).toUpperCase() + word.slice(1));
  return `${words.join('')}Url`;
}

/** One HTTP endpoint: a function behind a public URL. What it accepts it puts on a job's queue. */
export class Endpoint extends DeclaredFunction<EndpointDeclaration> {
  constructor(scope: Construct, endpoint: EndpointDeclaration, surroundings: Surroundings) {
    super(scope, endpoint, surroundings);
    Tags.of(this).add('endpoint', endpoint.name);

    const fn = this.createFunction([...endpoint.sendsTo], {
      // Whoever floods the URL takes this much of the account's concurrency, and no job's.
      reservedConcurrentExecutions: endpoint.concurrency,
    });
    // Mail programs sign in nowhere; what they may do stands, signed by us, in the link.
    const url = fn.addFunctionUrl({ authType: lambda.FunctionUrlAuthType.NONE });
    const output = new CfnOutput(this, 'Url', { value: url.url });
    output.overrideLogicalId(urlOutput(endpoint.name));
    this.createFunctionAlarms();
  }
}
