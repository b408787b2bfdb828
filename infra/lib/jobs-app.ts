import { App, DefaultStackSynthesizer, Stack, Tags, type AppProps, type StackProps } from 'aws-cdk-lib';
import { requireBootstraps } from './bootstrap.ts';
import { byDomain, readCatalog, type Catalog } from './catalog.ts';
import { Data } from './data.ts';
import { Endpoint } from './endpoint.ts';
import { Job } from './job.ts';
import { requireMedia } from './media.ts';
import { Observe } from './observe.ts';
import { readSettings, type Settings } from './settings.ts';

/** Here and not in `cdk.json`, for not every synthesis goes through the CDK's command line. */
const FLAGS = {
  '@aws-cdk/aws-iam:minimizePolicies': true,
  '@aws-cdk/aws-s3:serverAccessLogsUseBucketPolicy': true,
  // What functions stand on cannot go away under them.
  '@aws-cdk/core:defaultCrossStackReferences': 'strong',
  '@aws-cdk/core:validateAgainstDefaultRules': true,
};

/** All stacks: `Data`, `Observe`, and one for each domain of the catalog, for a stack holds at most 500 resources. */
export class JobsApp extends App {
  readonly settings: Settings;

  constructor(props?: AppProps, catalog: Catalog = readCatalog()) {
    super({ analyticsReporting: false, ...props, context: { ...FLAGS, ...props?.context } });
    this.settings = readSettings(this.node);
    const { settings } = this;
    requireBootstraps(settings, catalog);
    requireMedia(settings, catalog);

    const data = new Data(this, settings, stackProps('data', settings));
    const observe = new Observe(this, catalog, settings, stackProps('observe', settings));
    const { capabilities, topics } = data;
    const surroundings = { catalog, settings, capabilities, topics, alarmTopic: observe.alarmTopic };
    for (const [domain, { jobs, endpoints }] of byDomain(catalog)) {
      const stack = new Stack(this, domain, stackProps(domain, settings));
      // Some of what it needs from there it knows by name only.
      stack.addStackDependency(data);
      Tags.of(stack).add('domain', domain);
      for (const job of jobs) new Job(stack, job, surroundings);
      for (const endpoint of endpoints) new Endpoint(stack, endpoint, surroundings);
    }
  }
}

function stackProps(name: string, settings: Settings): StackProps {
  return {
    stackName: settings.prefix + name,
    // The local engine has no bootstrap stack: `deploy-local.ts` brings the files itself.
    ...(settings.local && {
      synthesizer: new DefaultStackSynthesizer({
        generateBootstrapVersionRule: false,
        fileAssetsBucketName: `${settings.prefix}deployment-\${AWS::AccountId}`,
      }),
    }),
  };
}
