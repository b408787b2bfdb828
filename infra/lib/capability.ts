import { type Stack, Validations } from 'aws-cdk-lib';
import type { ISecurityGroup, IVpc, SubnetSelection } from 'aws-cdk-lib/aws-ec2';
import type { Role } from 'aws-cdk-lib/aws-iam';
import type { ILayerVersion } from 'aws-cdk-lib/aws-lambda';

/** What one word of a job's `uses` brings to its function: these variables, permissions, network and layers. */
export interface Capability {
  readonly environment: Readonly<Record<string, string>>;
  readonly network?: {
    readonly vpc: IVpc;
    readonly vpcSubnets: SubnetSelection;
    readonly securityGroups: ISecurityGroup[];
  };
  grant(role: Role, functionArn: string): void;
  /** The layers of a function in that stack. */
  layersIn?(stack: Stack): ILayerVersion[];
}

/** Capabilities by the name that the catalog gives them. */
export type Capabilities = Readonly<Record<string, Capability>>;

/**
 * Accepts one wildcard of a role's policy; any other stays an error of cdk-nag.
 *
 * `resource` as cdk-nag writes it: a reference stands in angle brackets.
 */
export function acceptWildcard(role: Role, resource: string, reason: string): void {
  Validations.of(role).acknowledge({ id: `AwsSolutions::AwsSolutions-IAM5[Resource::${resource}]`, reason });
}
