import { ArnFormat, Duration, Stack, Tags, TimeZone } from 'aws-cdk-lib';
import * as cloudwatch from 'aws-cdk-lib/aws-cloudwatch';
import { SnsAction } from 'aws-cdk-lib/aws-cloudwatch-actions';
import * as iam from 'aws-cdk-lib/aws-iam';
import * as lambda from 'aws-cdk-lib/aws-lambda';
import { SqsEventSource } from 'aws-cdk-lib/aws-lambda-event-sources';
import * as logs from 'aws-cdk-lib/aws-logs';
import { Schedule, ScheduleExpression, ScheduleTargetInput } from 'aws-cdk-lib/aws-scheduler';
import { SqsSendMessage } from 'aws-cdk-lib/aws-scheduler-targets';
import type { ITopic } from 'aws-cdk-lib/aws-sns';
import * as sqs from 'aws-cdk-lib/aws-sqs';
import { Construct } from 'constructs';
import { bootstrap } from './bootstrap.ts';
import type { Capabilities, Capability } from './capability.ts';
import type { Catalog, JobDeclaration } from './catalog.ts';
import { alarmName, deadLetters, errors, oldestMessage, throttles, type AlarmKind } from './metrics.ts';
import { removal, type Settings } from './settings.ts';

/** What all jobs of one deployment share. */
export interface Surroundings {
  readonly catalog: Catalog;
  readonly settings: Settings;
  readonly capabilities: Capabilities;
  readonly alarmTopic: ITopic;
}

/**
 * One job: queue, dead-letter queue, function, event source, schedules, permissions, log and alarms.
 *
 * Queues are addressed by name, never by reference: two jobs of different stacks may enqueue for each other.
 */
export class Job extends Construct {
  private readonly name: string;
  private readonly queue: sqs.Queue;
  private readonly deadLetterQueue: sqs.Queue;

  constructor(
    scope: Construct,
    private readonly job: JobDeclaration,
    private readonly surroundings: Surroundings,
  ) {
    super(scope, job.name);
    Tags.of(this).add('job', job.name);
    this.name = surroundings.settings.prefix + job.name;

    this.deadLetterQueue = this.createDeadLetterQueue();
    this.queue = this.createQueue();
    this.createFunction();
    this.createSchedules();
    this.createAlarms();
  }

  private createDeadLetterQueue(): sqs.Queue {
    return new sqs.Queue(this, 'DeadLetters', {
      queueName: `${this.name}-dlq`,
      retentionPeriod: Duration.seconds(this.job.queue.deadLetterRetentionSeconds),
      redriveAllowPolicy: {
        redrivePermission: sqs.RedrivePermission.BY_QUEUE,
        // By name: the queue itself refers to this one.
        sourceQueues: [sqs.Queue.fromQueueArn(this, 'Source', this.queueArn(this.job.name))],
      },
      ...this.queueDefaults(),
    });
  }

  private createQueue(): sqs.Queue {
    return new sqs.Queue(this, 'Queue', {
      queueName: this.name,
      visibilityTimeout: Duration.seconds(this.job.queue.visibilityTimeoutSeconds),
      retentionPeriod: Duration.seconds(this.job.queue.retentionSeconds),
      deadLetterQueue: { queue: this.deadLetterQueue, maxReceiveCount: this.job.queue.maxReceiveCount },
      ...this.queueDefaults(),
    });
  }

  private queueDefaults(): Partial<sqs.QueueProps> {
    return {
      encryption: sqs.QueueEncryption.SQS_MANAGED,
      enforceSSL: true,
      // A renamed job must not take its messages with it.
      removalPolicy: removal(this.surroundings.settings),
    };
  }

  private createFunction(): void {
    const { settings } = this.surroundings;
    const capabilities = this.job.uses.map((use) => this.capability(use));
    const functionArn = Stack.of(this).formatArn({
      service: 'lambda',
      resource: 'function',
      arnFormat: ArnFormat.COLON_RESOURCE_NAME,
      resourceName: this.name,
    });

    const logGroup = new logs.LogGroup(this, 'Log', {
      logGroupName: `/aws/lambda/${this.name}`,
      retention: this.job.logRetentionDays,
      removalPolicy: removal(settings),
    });
    // Our own role: the one that CDK would make may write to every log group of the account.
    const role = new iam.Role(this, 'Role', { assumedBy: new iam.ServicePrincipal('lambda.amazonaws.com') });
    logGroup.grantWrite(role);
    role.addToPolicy(new iam.PolicyStatement({ actions: ['sqs:SendMessage'], resources: this.mayEnqueue() }));
    for (const capability of capabilities) capability.grant(role, functionArn);

    const fn = new lambda.Function(this, 'Function', {
      functionName: this.name,
      description: this.job.summary,
      runtime: lambda.Runtime.PROVIDED_AL2023,
      architecture: settings.architecture,
      handler: 'bootstrap',
      code: lambda.Code.fromAsset(bootstrap(settings, this.job)),
      timeout: Duration.seconds(this.job.timeoutSeconds),
      memorySize: this.job.memoryMb,
      role,
      logGroup,
      // A continued run sends to its own queue. Lambda takes that for a runaway loop and stops it after 16 rounds.
      recursiveLoop: lambda.RecursiveLoop.ALLOW,
      environment: Object.assign(
        { QUEUE_PREFIX: settings.prefix, QUEUE_URL_PREFIX: settings.queueUrlPrefix },
        ...capabilities.map((capability) => capability.environment),
      ) as Record<string, string>,
      ...capabilities.find((capability) => capability.network)?.network,
    });
    fn.addEventSource(
      new SqsEventSource(this.queue, {
        batchSize: this.job.batch.size,
        maxBatchingWindow: Duration.seconds(this.job.batch.windowSeconds),
        maxConcurrency: this.job.concurrency,
        reportBatchItemFailures: true,
      }),
    );
  }

  private createSchedules(): void {
    if (this.job.schedules.length === 0) return;
    const stack = Stack.of(this);
    const role = new iam.Role(this, 'SchedulerRole', {
      assumedBy: new iam.ServicePrincipal('scheduler.amazonaws.com', {
        conditions: {
          StringEquals: {
            'aws:SourceAccount': stack.account,
            'aws:SourceArn': stack.formatArn({
              service: 'scheduler',
              resource: 'schedule-group',
              resourceName: 'default',
            }),
          },
        },
      }),
    });
    for (const schedule of this.job.schedules) {
      new Schedule(this, `Schedule-${schedule.name}`, {
        scheduleName: `${this.name}-${schedule.name}`,
        schedule: ScheduleExpression.expression(schedule.expression, TimeZone.of(schedule.timezone)),
        target: new SqsSendMessage(this.queue, {
          role,
          input: ScheduleTargetInput.fromText(JSON.stringify(schedule.message)),
          deadLetterQueue: this.deadLetterQueue,
          maxEventAge: Duration.hours(1),
        }),
      });
    }
  }

  private createAlarms(): void {
    const { alarms } = this.job;
    this.alarm('oldest-message', oldestMessage(this.name), alarms.oldestMessageSeconds, {
      comparisonOperator: cloudwatch.ComparisonOperator.GREATER_THAN_THRESHOLD,
      // One late batch is not yet an outage.
      evaluationPeriods: 3,
      datapointsToAlarm: 2,
    });
    // By depth, not NumberOfMessagesSent, which does not count what SQS itself moves here.
    this.alarm('dead-letters', deadLetters(this.name), alarms.deadLetters);
    // A job that fails reports its records and returns; an error is a crash, a timeout or an exhausted memory.
    this.alarm('errors', errors(this.name), 1);
    this.alarm('throttles', throttles(this.name), 1, { evaluationPeriods: 3 });
  }

  private alarm(
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
      // An idle queue reports nothing.
      treatMissingData: cloudwatch.TreatMissingData.NOT_BREACHING,
      ...props,
    }).addAlarmAction(new SnsAction(this.surroundings.alarmTopic));
  }

  private capability(use: string): Capability {
    const capability = this.surroundings.capabilities[use];
    if (!capability) throw new Error(`${this.job.name} uses ${use}, which no stack provides`);
    return capability;
  }

  /** Its own queues, because a run continues and dies by itself, and those of the jobs it enqueues for. */
  private mayEnqueue(): string[] {
    const others = this.job.sendsTo.includes('*')
      ? this.surroundings.catalog.jobs.flatMap(({ name }) => [name, `${name}-dlq`])
      : this.job.sendsTo;
    return [...new Set([this.job.name, `${this.job.name}-dlq`, ...others])].map((queue) => this.queueArn(queue));
  }

  private queueArn(queue: string): string {
    return Stack.of(this).formatArn({ service: 'sqs', resource: this.surroundings.settings.prefix + queue });
  }
}
