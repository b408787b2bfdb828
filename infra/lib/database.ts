import { CfnOutput, Duration, RemovalPolicy, Stack } from 'aws-cdk-lib';
import * as ec2 from 'aws-cdk-lib/aws-ec2';
import * as iam from 'aws-cdk-lib/aws-iam';
import * as logs from 'aws-cdk-lib/aws-logs';
import * as rds from 'aws-cdk-lib/aws-rds';
import { Construct } from 'constructs';
import { acceptWildcard, type Capability } from './capability.ts';

const DATABASE = 'yesgoddess';
/** The functions' PostgreSQL role. It has no password: it signs in by IAM (`GRANT rds_iam`). */
const USER = 'jobs';

/**
 * Aurora PostgreSQL behind RDS Proxy, in a network without a way to the internet.
 *
 * Functions reach SQS and SES by interface endpoints: for two services that costs less than a NAT gateway in each zone,
 * and what handles personal data cannot send it elsewhere.
 */
export class Database extends Construct implements Capability {
  readonly environment: Record<string, string>;
  readonly network: NonNullable<Capability['network']>;
  private readonly proxy: rds.DatabaseProxy;

  constructor(
    scope: Construct,
    id: string,
    private readonly prefix: string,
  ) {
    super(scope, id);
    const vpc = this.createVpc();
    const vpcSubnets = { subnetType: ec2.SubnetType.PRIVATE_ISOLATED };
    const functions = new ec2.SecurityGroup(this, 'Functions', { vpc, description: 'Functions that use the database' });
    for (const [name, service] of Object.entries({
      Sqs: ec2.InterfaceVpcEndpointAwsService.SQS,
      Ses: ec2.InterfaceVpcEndpointAwsService.EMAIL,
    })) {
      vpc
        .addInterfaceEndpoint(name, { service, subnets: vpcSubnets, open: false })
        .connections.allowDefaultPortFrom(functions);
    }

    const cluster = this.createCluster(vpc, vpcSubnets);
    // What the Data API asks for.
    new CfnOutput(Stack.of(this), 'DatabaseCluster', { value: cluster.clusterArn });
    new CfnOutput(Stack.of(this), 'DatabaseSecret', { value: cluster.secret!.secretArn });
    this.proxy = this.createProxy(vpc, vpcSubnets, cluster);
    this.proxy.connections.allowFrom(functions, ec2.Port.POSTGRES);
    this.network = { vpc, vpcSubnets, securityGroups: [functions] };
    this.environment = {
      DATABASE_URL: `postgres://${USER}@${this.proxy.endpoint}:5432/${DATABASE}?sslmode=verify-full`,
      DATABASE_AUTH: 'iam',
    };
  }

  grant(role: iam.Role, functionArn: string): void {
    this.proxy.grantConnect(role, USER);
    // Lambda itself attaches the function to the network, in the function's name.
    const attach = {
      actions: [
        'ec2:CreateNetworkInterface',
        'ec2:DeleteNetworkInterface',
        'ec2:DescribeNetworkInterfaces',
        'ec2:DescribeSubnets',
      ],
      resources: ['*'],
    };
    role.addToPolicy(new iam.PolicyStatement(attach));
    acceptWildcard(
      role,
      '*',
      'Actions on network interfaces cannot be limited to a resource before the interface exists',
    );
    // The function's code has no business there.
    role.addToPolicy(
      new iam.PolicyStatement({
        ...attach,
        effect: iam.Effect.DENY,
        conditions: { ArnEquals: { 'lambda:SourceFunctionArn': functionArn } },
      }),
    );
  }

  private createVpc(): ec2.Vpc {
    const vpc = new ec2.Vpc(this, 'Vpc', {
      maxAzs: 2,
      natGateways: 0,
      subnetConfiguration: [{ name: 'jobs', subnetType: ec2.SubnetType.PRIVATE_ISOLATED, cidrMask: 20 }],
      gatewayEndpoints: { S3: { service: ec2.GatewayVpcEndpointAwsService.S3 } },
    });
    vpc.addFlowLog('FlowLog', {
      destination: ec2.FlowLogDestination.toCloudWatchLogs(
        new logs.LogGroup(this, 'FlowLogs', {
          retention: logs.RetentionDays.ONE_MONTH,
          removalPolicy: RemovalPolicy.DESTROY,
        }),
      ),
      trafficType: ec2.FlowLogTrafficType.REJECT,
    });
    return vpc;
  }

  private createCluster(vpc: ec2.IVpc, vpcSubnets: ec2.SubnetSelection): rds.DatabaseCluster {
    return new rds.DatabaseCluster(this, 'Cluster', {
      engine: rds.DatabaseClusterEngine.auroraPostgres({ version: rds.AuroraPostgresEngineVersion.VER_17_9 }),
      vpc,
      vpcSubnets,
      defaultDatabaseName: DATABASE,
      writer: rds.ClusterInstance.serverlessV2('Writer'),
      readers: [rds.ClusterInstance.serverlessV2('Standby', { scaleWithWriter: true })],
      serverlessV2MinCapacity: 0.5,
      serverlessV2MaxCapacity: 16,
      manageMasterUserPassword: true,
      iamAuthentication: true,
      // The way to create the role and to look inside without a machine in this network.
      enableDataApi: true,
      storageEncrypted: true,
      backup: { retention: Duration.days(14) },
      copyTagsToSnapshot: true,
      cloudwatchLogsExports: ['postgresql'],
      deletionProtection: true,
      removalPolicy: RemovalPolicy.SNAPSHOT,
    });
  }

  private createProxy(vpc: ec2.IVpc, vpcSubnets: ec2.SubnetSelection, cluster: rds.DatabaseCluster): rds.DatabaseProxy {
    const role = new iam.Role(this, 'ProxyRole', { assumedBy: new iam.ServicePrincipal('rds.amazonaws.com') });
    cluster.grantConnect(role, USER);
    return new rds.DatabaseProxy(this, 'Proxy', {
      proxyTarget: rds.ProxyTarget.fromCluster(cluster),
      vpc,
      vpcSubnets,
      role,
      dbProxyName: `${this.prefix}jobs`,
      // From function to proxy and from proxy to cluster: no password exists.
      defaultAuthScheme: rds.DefaultAuthScheme.IAM_AUTH,
      requireTLS: true,
    });
  }
}
