import { ArnFormat, Duration, Stack } from 'aws-cdk-lib';
import * as cloudwatch from 'aws-cdk-lib/aws-cloudwatch';
import { SnsAction } from 'aws-cdk-lib/aws-cloudwatch-actions';
import * as iam from 'aws-cdk-lib/aws-iam';
import * as lambda from 'aws-cdk-lib/aws-lambda';
import * as logs from 'aws-cdk-lib/aws-logs';
import type { ITopic } from 'aws-cdk-lib/aws-sns';
import { Construct } from 'constructs';
import { bootstrap } from './bootstrap.ts';
import type { Capabilities, Capability } from './capability.ts';
import type { Catalog, FunctionDeclaration } from './catalog.ts';
import { alarmName, errors, throttles, type AlarmKind } from './metrics.ts';
import { removal, type Settings } from './settings.ts';

/**
 * glibc keeps what is freed, up to 16 MiB: else each invocation gives its memory back, and the next one faults it in again page by page,
 * for half of a small function's CPU.
 */
const ALLOCATOR = {
  MALLOC_TRIM_THRESHOLD_: '16777216',
  MALLOC_MMAP_THRESHOLD_: '16777216',
  MALLOC_TOP_PAD_: '1048576',
};

/** What all functions of one deployment share. */
export interface Surroundings {
  readonly catalog: Catalog;
  readonly settings: Settings;
  readonly capabilities: Capabilities;
  readonly topics: Readonly<Record<string, ITopic>>;
  readonly alarmTopic: ITopic;
}

/**
 * One function with its role, log and alarms, whatever wakes it.
 *
 * Queues are addressed by name, never by reference: two jobs of different stacks may enqueue for each other.
 */
export abstract class DeclaredFunction<D extends FunctionDeclaration> extends Construct {
  protected readonly name: string;

  constructor(
    scope: Construct,
    protected readonly declaration: D,
    protected readonly surroundings: Surroundings,
  ) {
    super(scope, declaration.name);
    this.name = surroundings.settings.prefix + declaration.name;
  }

  protected createFunction(queues: string[], props: Partial<lambda.FunctionProps>): lambda.Function {
    const { settings } = this.surroundings;
    const capabilities = this.declaration.uses.map((use) => this.capability(use));
    const functionArn = Stack.of(this).formatArn({
      service: 'lambda',
      resource: 'function',
      arnFormat: ArnFormat.COLON_RESOURCE_NAME,
      resourceName: this.name,
    });

    const logGroup = new logs.LogGroup(this, 'Log', {
      logGroupName: `/aws/lambda/${this.name}`,
      retention: this.declaration.logRetentionDays,
      removalPolicy: removal(settings),
    });
    // Our own role: the one that CDK would make may write to every log group of the account.
    const role = new iam.Role(this, 'Role', { assumedBy: new iam.ServicePrincipal('lambda.amazonaws.com') });
    logGroup.grantWrite(role);
    const resources = queues.map((queue) => this.queueArn(queue));
    role.addToPolicy(new iam.PolicyStatement({ actions: ['sqs:SendMessage'], resources }));
    for (const capability of capabilities) capability.grant(role, functionArn);

    return new lambda.Function(this, 'Function', {
      functionName: this.name,
      description: this.declaration.summary,
      runtime: lambda.Runtime.PROVIDED_AL2023,
      architecture: settings.architecture,
      handler: 'bootstrap',
      code: lambda.Code.fromAsset(bootstrap(settings, this.declaration)),
      timeout: Duration.seconds(this.declaration.timeoutSeconds),
      memorySize: this.declaration.memoryMb,
      layers: capabilities.flatMap((capability) => capability.layersIn?.(Stack.of(this)) ?? []),
      role,
      logGroup,
      environment: Object.assign(
        { QUEUE_PREFIX: settings.prefix, QUEUE_URL_PREFIX: settings.queueUrlPrefix, ...ALLOCATOR },
        ...capabilities.map((capability) => capability.environment),
      ) as Record<string, string>,
      ...capabilities.find((capability) => capability.network)?.network,
      ...props,
    });
  }

  /** Of what every function can suffer from. */
  protected createFunctionAlarms(): void {
    // A function that fails reports that and returns; an error is a crash, a timeout or an exhausted memory.
    this.alarm('errors', errors(this.name), 1);
    this.alarm('throttles', throttles(this.name), 1, { evaluationPeriods: 3 });
  }

  protected alarm(
    kind: AlarmKind,
    metric: cloudwatch.Metric,
    threshold: number,
    props?: Partial<cloudwatch.AlarmProps>,
  ): void {
    new cloudwatch.Alarm(this, `Alarm-${kind}`, {
      alarmName: alarmName(this.name, kind),
      metric,
      threshold,
      evaluationPeriods: 1,
      comparisonOperator: cloudwatch.ComparisonOperator.GREATER_THAN_OR_EQUAL_TO_THRESHOLD,
      // What is idle reports nothing.
      treatMissingData: cloudwatch.TreatMissingData.NOT_BREACHING,
      ...props,
    }).addAlarmAction(new SnsAction(this.surroundings.alarmTopic));
  }

  protected queueArn(queue: string): string {
    return Stack.of(this).formatArn({ service: 'sqs', resource: this.surroundings.settings.prefix + queue });
  }

  private capability(use: string): Capability {
    const capability = this.surroundings.capabilities[use];
    if (!capability) throw new Error(`${this.declaration.name} uses ${use}, which no stack provides`);
    return capability;
  }
}
