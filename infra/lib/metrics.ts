import { Duration } from 'aws-cdk-lib';
import { Metric, type MetricProps, Stats } from 'aws-cdk-lib/aws-cloudwatch';

/** Every alarm that a job's queues have. */
export const QUEUE_ALARMS = ['oldest-message', 'dead-letters'] as const;
/** Every alarm that a function has, whatever wakes it. */
export const FUNCTION_ALARMS = ['errors', 'throttles'] as const;
/** Every alarm that a job has. */
export const ALARMS = [...QUEUE_ALARMS, ...FUNCTION_ALARMS] as const;
export type AlarmKind = (typeof ALARMS)[number];

/** The alarm's name: by it the dashboard finds alarms of other stacks. */
export function alarmName(name: string, kind: AlarmKind): string {
  return `${name}-${kind}`;
}

/** Seconds that the queue's oldest message has waited. */
export function oldestMessage(name: string): Metric {
  return ofQueue(name, 'ApproximateAgeOfOldestMessage');
}

/** Messages that wait to be received. */
export function waiting(name: string): Metric {
  return ofQueue(name, 'ApproximateNumberOfMessagesVisible');
}

/** Messages in the dead-letter queue. */
export function deadLetters(name: string): Metric {
  return ofQueue(`${name}-dlq`, 'ApproximateNumberOfMessagesVisible');
}

/** Invocations that ended without an answer. */
export function errors(name: string): Metric {
  return ofFunction(name, 'Errors');
}

/** Invocations that Lambda refused for want of concurrency. */
export function throttles(name: string): Metric {
  return ofFunction(name, 'Throttles');
}

/** Invocations; of a job, one for each batch. */
export function invocations(name: string): Metric {
  return ofFunction(name, 'Invocations');
}

/** Milliseconds of an invocation, 95th percentile. */
export function duration(name: string): Metric {
  return ofFunction(name, 'Duration', { statistic: Stats.p(95) });
}

function ofQueue(queue: string, metricName: string): Metric {
  return new Metric({
    namespace: 'AWS/SQS',
    metricName,
    dimensionsMap: { QueueName: queue },
    statistic: Stats.MAXIMUM,
    period: Duration.minutes(1),
  });
}

function ofFunction(name: string, metricName: string, props?: Partial<MetricProps>): Metric {
  return new Metric({
    namespace: 'AWS/Lambda',
    metricName,
    dimensionsMap: { FunctionName: name },
    statistic: Stats.SUM,
    period: Duration.minutes(5),
    ...props,
  });
}
