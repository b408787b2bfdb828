import { Duration, Size, Stack, Tags, TimeZone } from 'aws-cdk-lib';
import * as cloudwatch from 'aws-cdk-lib/aws-cloudwatch';
import * as iam from 'aws-cdk-lib/aws-iam';
import * as lambda from 'aws-cdk-lib/aws-lambda';
import { SqsEventSource } from 'aws-cdk-lib/aws-lambda-event-sources';
import { Schedule, ScheduleExpression, ScheduleTargetInput } from 'aws-cdk-lib/aws-scheduler';
import { SqsSendMessage } from 'aws-cdk-lib/aws-scheduler-targets';
import { FilterOrPolicy, SubscriptionFilter } from 'aws-cdk-lib/aws-sns';
import { SqsSubscription } from 'aws-cdk-lib/aws-sns-subscriptions';
import * as sqs from 'aws-cdk-lib/aws-sqs';
import type { Construct } from 'constructs';
import type { JobDeclaration } from './catalog.ts';
import { DeclaredFunction, type Surroundings } from './function.ts';
import { deadLetters, oldestMessage } from './metrics.ts';
import { removal } from './settings.ts';

/**
 * One job: queue, dead-letter queue, function, event source, schedules, topics, permissions, log and alarms. Of a job that awaits its
 * function only the queues and their alarms, which tell how long messages have waited.
 */
export class Job extends DeclaredFunction<JobDeclaration> {
  private readonly queue: sqs.Queue;
  private readonly deadLetterQueue: sqs.Queue;

  constructor(scope: Construct, job: JobDeclaration, surroundings: Surroundings) {
    super(scope, job, surroundings);
    Tags.of(this).add('job', job.name);

    this.deadLetterQueue = this.createDeadLetterQueue();
    this.queue = this.createQueue();
    if (!job.awaitsFunction) this.createFunctionWithSource();
    this.createSchedules();
    this.createSubscriptions();
    this.createAlarms();
  }

  private createDeadLetterQueue(): sqs.Queue {
    return new sqs.Queue(this, 'DeadLetters', {
      queueName: `${this.name}-dlq`,
      retentionPeriod: Duration.seconds(this.declaration.queue.deadLetterRetentionSeconds),
      redriveAllowPolicy: {
        redrivePermission: sqs.RedrivePermission.BY_QUEUE,
        // By name: the queue itself refers to this one.
        sourceQueues: [sqs.Queue.fromQueueArn(this, 'Source', this.queueArn(this.declaration.name))],
      },
      ...this.queueDefaults(),
    });
  }

  private createQueue(): sqs.Queue {
    return new sqs.Queue(this, 'Queue', {
      queueName: this.name,
      visibilityTimeout: Duration.seconds(this.declaration.queue.visibilityTimeoutSeconds),
      retentionPeriod: Duration.seconds(this.declaration.queue.retentionSeconds),
      deadLetterQueue: { queue: this.deadLetterQueue, maxReceiveCount: this.declaration.queue.maxReceiveCount },
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

  private createFunctionWithSource(): void {
    const fn = this.createFunction(this.mayEnqueue(), {
      ephemeralStorageSize: Size.mebibytes(this.declaration.ephemeralStorageMb),
      // A continued run sends to its own queue. Lambda takes that for a runaway loop and stops it after 16 rounds.
      recursiveLoop: lambda.RecursiveLoop.ALLOW,
    });
    if (this.declaration.uses.includes('database')) {
      fn.addEnvironment('DATABASE_POOL_SIZE', String(this.declaration.connections));
    }
    fn.addEventSource(
      new SqsEventSource(this.queue, {
        batchSize: this.declaration.batch.size,
        maxBatchingWindow: Duration.seconds(this.declaration.batch.windowSeconds),
        maxConcurrency: this.declaration.concurrency,
        reportBatchItemFailures: true,
      }),
    );
  }

  private createSchedules(): void {
    if (this.declaration.schedules.length === 0) return;
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
    for (const schedule of this.declaration.schedules) {
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

  private createSubscriptions(): void {
    for (const name of this.declaration.topics) {
      const topic = this.surroundings.topics[name];
      if (!topic) throw new Error(`${this.declaration.name} subscribes to ${name}, which no stack provides`);
      topic.addSubscription(
        new SqsSubscription(this.queue, {
          rawMessageDelivery: true,
          // What SNS cannot bring to the queue is a dead letter like any other.
          deadLetterQueue: this.deadLetterQueue,
          // SES announces a new destination in plain text, which is a message to nobody.
          filterPolicyWithMessageBody: { eventType: FilterOrPolicy.filter(SubscriptionFilter.existsFilter()) },
        }),
      );
    }
  }

  private createAlarms(): void {
    const { alarms } = this.declaration;
    this.alarm('oldest-message', oldestMessage(this.name), alarms.oldestMessageSeconds, {
      comparisonOperator: cloudwatch.ComparisonOperator.GREATER_THAN_THRESHOLD,
      // One late batch is not yet an outage.
      evaluationPeriods: 3,
      datapointsToAlarm: 2,
    });
    // By depth, not NumberOfMessagesSent, which does not count what SQS itself moves here.
    this.alarm('dead-letters', deadLetters(this.name), alarms.deadLetters);
    if (!this.declaration.awaitsFunction) this.createFunctionAlarms();
  }

  /** Its own queues, because a run continues and dies by itself, and those of the jobs it enqueues for. */
  private mayEnqueue(): string[] {
    const { name, sendsTo } = this.declaration;
    const others = sendsTo.includes('*')
      ? this.surroundings.catalog.jobs.flatMap((job) => [job.name, `${job.name}-dlq`])
      : sendsTo;
    return [...new Set([name, `${name}-dlq`, ...others])];
  }
}
