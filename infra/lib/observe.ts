import { type App, ArnFormat, Stack, type StackProps } from 'aws-cdk-lib';
import * as cloudwatch from 'aws-cdk-lib/aws-cloudwatch';
import { Topic } from 'aws-cdk-lib/aws-sns';
import { EmailSubscription } from 'aws-cdk-lib/aws-sns-subscriptions';
import { byDomain, type Catalog, type Domain, type FunctionDeclaration, type JobDeclaration } from './catalog.ts';
import {
  ALARMS,
  FUNCTION_ALARMS,
  QUEUE_ALARMS,
  alarmName,
  deadLetters,
  duration,
  errors,
  invocations,
  oldestMessage,
  throttles,
  waiting,
} from './metrics.ts';
import type { Settings } from './settings.ts';

/** The topic that every alarm goes to, and one dashboard of all functions. */
export class Observe extends Stack {
  readonly alarmTopic: Topic;

  constructor(scope: App, catalog: Catalog, settings: Settings, props: StackProps) {
    super(scope, 'Observe', props);
    this.alarmTopic = new Topic(this, 'Alarms', { topicName: `${settings.prefix}alarms`, enforceSSL: true });
    if (settings.alarmEmail) this.alarmTopic.addSubscription(new EmailSubscription(settings.alarmEmail));

    const dashboard = new cloudwatch.Dashboard(this, 'Dashboard', { dashboardName: `${settings.prefix}jobs` });
    for (const [title, domain] of byDomain(catalog)) {
      dashboard.addWidgets(new cloudwatch.TextWidget({ markdown: `# ${title}`, width: 24, height: 1 }));
      dashboard.addWidgets(this.alarmsOf(domain, settings.prefix));
      for (const job of domain.jobs) {
        const name = settings.prefix + job.name;
        dashboard.addWidgets(graphOfQueue(job, name), ...(job.awaitsFunction ? [] : graphsOfFunction(job, name)));
      }
      for (const endpoint of domain.endpoints) {
        dashboard.addWidgets(...graphsOfFunction(endpoint, settings.prefix + endpoint.name));
      }
    }
  }

  /** By name, not by reference: the alarms' own stacks come after this one. */
  private alarmsOf({ jobs, endpoints }: Domain, prefix: string): cloudwatch.AlarmStatusWidget {
    const names = [
      ...jobs.flatMap(({ name, awaitsFunction }) =>
        (awaitsFunction ? QUEUE_ALARMS : ALARMS).map((kind) => alarmName(prefix + name, kind)),
      ),
      ...endpoints.flatMap(({ name }) => FUNCTION_ALARMS.map((kind) => alarmName(prefix + name, kind))),
    ];
    return new cloudwatch.AlarmStatusWidget({
      width: 24,
      alarms: names.map((name) =>
        cloudwatch.Alarm.fromAlarmArn(
          this,
          name,
          this.formatArn({
            service: 'cloudwatch',
            resource: 'alarm',
            resourceName: name,
            arnFormat: ArnFormat.COLON_RESOURCE_NAME,
          }),
        ),
      ),
    });
  }
}

function label(metric: cloudwatch.Metric, text: string): cloudwatch.Metric {
  return metric.with({ label: text });
}

function graphOfQueue(job: JobDeclaration, name: string): cloudwatch.IWidget {
  return new cloudwatch.GraphWidget({
    title: `${job.name}: queue`,
    width: 8,
    left: [label(waiting(name), 'waiting'), label(deadLetters(name), 'dead letters')],
    right: [label(oldestMessage(name), 'oldest, s')],
    rightAnnotations: [{ value: job.alarms.oldestMessageSeconds, label: 'objective' }],
  });
}

function graphsOfFunction(fn: FunctionDeclaration, name: string): cloudwatch.IWidget[] {
  return [
    new cloudwatch.GraphWidget({
      title: `${fn.name}: function`,
      width: 8,
      left: [
        label(invocations(name), 'invocations'),
        label(errors(name), 'errors'),
        label(throttles(name), 'throttles'),
      ],
    }),
    new cloudwatch.GraphWidget({
      title: `${fn.name}: duration`,
      width: 8,
      left: [label(duration(name), 'p95, ms')],
      leftAnnotations: [{ value: fn.timeoutSeconds * 1000, label: 'timeout' }],
    }),
  ];
}
