import { Template } from 'aws-cdk-lib/assertions';
import type { JobsApp } from '../lib/jobs-app.ts';

/** One resource of a template. References are kept as CloudFormation writes them. */
export interface Resource {
  readonly Type: string;
  readonly Properties: Record<string, any>;
  readonly DeletionPolicy?: string;
}

/** A statement of a policy, with actions and resources as lists. */
export interface Statement {
  readonly effect: string;
  readonly actions: string[];
  readonly resources: string[];
  readonly conditions: unknown;
}

/** The stack of that construct id. */
export function templateOf(app: JobsApp, id: string): Template {
  return Template.fromStack(app.node.findChild(id) as never);
}

/** The one resource of that type whose properties hold these values. */
export function one(template: Template, type: string, properties: Record<string, unknown> = {}): [string, Resource] {
  const found = Object.entries(template.findResources(type, { Properties: properties }));
  const [first] = found;
  if (!first || found.length > 1) throw new Error(`${found.length} of ${type} ${JSON.stringify(properties)}, not 1`);
  return first as [string, Resource];
}

/** All that the policies of a role say. */
export function statementsOf(template: Template, role: string): Statement[] {
  const policies = Object.values(template.findResources('AWS::IAM::Policy')) as unknown as Resource[];
  return policies
    .filter(({ Properties }) => Properties['Roles'].some((each: { Ref: string }) => each.Ref === role))
    .flatMap(({ Properties }) => Properties['PolicyDocument'].Statement)
    .map(({ Effect, Action, Resource, Condition }) => ({
      effect: Effect,
      actions: [Action].flat(),
      resources: [Resource].flat().map(text),
      conditions: Condition,
    }));
}

/** A value as a line of text: `arn:<AWS::Partition>:sqs:…`. */
export function text(value: any): string {
  if (typeof value === 'string') return value;
  if (value.Ref) return `<${value.Ref}>`;
  if (value['Fn::GetAtt']) return `<${value['Fn::GetAtt'].join('.')}>`;
  if (value['Fn::Select']) return `<${value['Fn::Select'][0]} of ${text(value['Fn::Select'][1]['Fn::Split'][1])}>`;
  if (value['Fn::ImportValue']) return `<${value['Fn::ImportValue']}>`;
  if (value['Fn::Join']) return value['Fn::Join'][1].map(text).join(value['Fn::Join'][0]);
  throw new Error(`not a text: ${JSON.stringify(value)}`);
}

/** What every function's environment has. */
export const COMMON_VARIABLES = [
  'MALLOC_MMAP_THRESHOLD_',
  'MALLOC_TOP_PAD_',
  'MALLOC_TRIM_THRESHOLD_',
  'QUEUE_PREFIX',
  'QUEUE_URL_PREFIX',
];
