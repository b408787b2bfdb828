import { Stack, Validations } from 'aws-cdk-lib';
import * as iam from 'aws-cdk-lib/aws-iam';
import { Secret } from 'aws-cdk-lib/aws-secretsmanager';
import * as ses from 'aws-cdk-lib/aws-ses';
import { Construct } from 'constructs';
import { acceptWildcard, type Capability } from './capability.ts';
import { removal, type Settings } from './settings.ts';

/** The sender's identity and the two lanes that mail leaves by. */
export class Mail extends Construct implements Capability {
  readonly environment: Record<string, string>;
  readonly identity: ses.EmailIdentity;
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
    const transactional = this.createLane('transactional');
    const bulk = this.createLane('bulk');
    this.lanes = [transactional, bulk];
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
      SES_CONFIGURATION_SET_TRANSACTIONAL: transactional.configurationSetName,
      SES_CONFIGURATION_SET_BULK: bulk.configurationSetName,
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

  /** Two lanes, so that a digest that people complain about does not spoil the reputation of a password reset. */
  private createLane(lane: string): ses.ConfigurationSet {
    return new ses.ConfigurationSet(this, lane, {
      configurationSetName: this.settings.prefix + lane,
      tlsPolicy: ses.ConfigurationSetTlsPolicy.REQUIRE,
      reputationMetrics: true,
      // Complaints are ours to enforce: who complains still gets the password reset that they ask for.
      suppressionReasons: ses.SuppressionReasons.BOUNCES_ONLY,
    });
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
