import { Stack, Validations } from 'aws-cdk-lib';
import * as iam from 'aws-cdk-lib/aws-iam';
import { Secret } from 'aws-cdk-lib/aws-secretsmanager';
import * as ses from 'aws-cdk-lib/aws-ses';
import { type ITopic, Topic } from 'aws-cdk-lib/aws-sns';
import { Construct } from 'constructs';
import { acceptWildcard, type Capability } from './capability.ts';
import { removal, type Settings } from './settings.ts';

/** What SES tells of every mail. */
const EVENTS = [
  ses.EmailSendingEvent.SEND,
  ses.EmailSendingEvent.DELIVERY,
  ses.EmailSendingEvent.DELIVERY_DELAY,
  ses.EmailSendingEvent.BOUNCE,
  ses.EmailSendingEvent.COMPLAINT,
  ses.EmailSendingEvent.REJECT,
  ses.EmailSendingEvent.RENDERING_FAILURE,
  ses.EmailSendingEvent.SUBSCRIPTION,
];
/** To tell these, SES rewrites links and adds an image. */
const TRACKING = [ses.EmailSendingEvent.OPEN, ses.EmailSendingEvent.CLICK];

/** The sender's identity, the lanes that mail leaves by, and the topic on which SES tells what became of it. */
export class Mail extends Construct implements Capability {
  readonly environment: Record<string, string>;
  readonly identity: ses.EmailIdentity;
  readonly feedback: ITopic;
  /** For functions that read the links of mails and send none. */
  readonly unsubscribeKey: Capability;
  private readonly lanes: ses.ConfigurationSet[];

  constructor(
    scope: Construct,
    id: string,
    private readonly settings: Settings,
  ) {
    super(scope, id);
    const domain = settings.mail.fromAddress.slice(settings.mail.fromAddress.indexOf('@') + 1);
    this.identity = new ses.EmailIdentity(this, 'Identity', {
      identity: ses.Identity.domain(domain),
      // DMARC wants the envelope's sender in the same domain.
      mailFromDomain: `bounce.${domain}`,
    });
    this.feedback = new Topic(this, 'Feedback', { topicName: `${settings.prefix}mail-feedback`, enforceSSL: true });
    const transactional = this.createLane('transactional', EVENTS);
    const bulk = this.createLane('bulk', [...EVENTS, ...TRACKING]);
    const untracked = this.createLane('bulk-untracked', EVENTS);
    this.lanes = [transactional, bulk, untracked];
    const { mail } = settings;
    const key = {
      UNSUBSCRIBE_KEY: settings.local ? 'local-unsubscribe-key-not-a-secret' : this.createUnsubscribeKey(),
    };
    this.unsubscribeKey = { environment: key, grant: () => {} };
    this.environment = {
      APP_URL: settings.appUrl,
      ...(settings.supportUrl && { SUPPORT_URL: settings.supportUrl }),
      EMAIL_FROM_NAME: mail.fromName,
      EMAIL_FROM_ADDRESS: mail.fromAddress,
      ...(mail.replyTo && { EMAIL_REPLY_TO: mail.replyTo }),
      EMAIL_POSTAL_ADDRESS: mail.postalAddress,
      ...(settings.securityEmail && { SECURITY_EMAIL: settings.securityEmail }),
      SES_CONFIGURATION_SET_TRANSACTIONAL: transactional.configurationSetName,
      SES_CONFIGURATION_SET_BULK: bulk.configurationSetName,
      SES_CONFIGURATION_SET_BULK_UNTRACKED: untracked.configurationSetName,
      ...key,
    };
  }

  grant(role: iam.Role): void {
    const sets = this.lanes.map((lane) =>
      Stack.of(this).formatArn({
        service: 'ses',
        resource: 'configuration-set',
        resourceName: lane.configurationSetName,
      }),
    );
    role.addToPolicy(
      new iam.PolicyStatement({
        actions: ['ses:SendEmail'],
        resources: [this.identity.emailIdentityArn, ...sets],
        conditions: { StringEquals: { 'ses:FromAddress': this.settings.mail.fromAddress } },
      }),
    );
    // The quota that sending is paced by.
    role.addToPolicy(new iam.PolicyStatement({ actions: ['ses:GetAccount'], resources: ['*'] }));
    acceptWildcard(role, '*', 'ses:GetAccount knows no resource');
  }

  /**
   * Lanes, so that a digest that people complain about does not spoil the reputation of a password reset, and that nobody is
   * tracked who said no.
   */
  private createLane(lane: string, events: ses.EmailSendingEvent[]): ses.ConfigurationSet {
    const set = new ses.ConfigurationSet(this, lane, {
      configurationSetName: this.settings.prefix + lane,
      tlsPolicy: ses.ConfigurationSetTlsPolicy.REQUIRE,
      reputationMetrics: true,
      // Complaints are ours to enforce: who complains still gets the password reset that they ask for.
      suppressionReasons: ses.SuppressionReasons.BOUNCES_ONLY,
    });
    set.addEventDestination('Feedback', { destination: ses.EventDestination.snsTopic(this.feedback), events });
    return set;
  }

  /**
   * Resolved at deployment: it never stands in a template, and a cold start needs neither a call nor an endpoint to get it.
   */
  private createUnsubscribeKey(): string {
    const key = new Secret(this, 'UnsubscribeKey', {
      secretName: `${this.settings.prefix}unsubscribe-key`,
      description: 'Signs the unsubscribe links of mails',
      generateSecretString: { passwordLength: 64, excludePunctuation: true },
      removalPolicy: removal(this.settings),
    });
    Validations.of(key).acknowledge({
      id: 'AwsSolutions::AwsSolutions-SMG4',
      reason: 'A new key would break the unsubscribe link in every mail that was ever sent',
    });
    return key.secretValue.unsafeUnwrap();
  }
}
