import { readFileSync } from 'node:fs';

/** One function as `cargo jobs catalog --json` declares it. Durations are seconds. */
export interface FunctionDeclaration {
  readonly name: string;
  readonly domain: string;
  readonly summary: string;
  /** Of a job the maximum of its event source, at least 2; of an endpoint what is reserved for it. */
  readonly concurrency: number;
  readonly timeoutSeconds: number;
  readonly memoryMb: number;
  /** Capabilities: each brings permissions, environment and layers, and nothing else does. */
  readonly uses: readonly string[];
  /** Jobs it may enqueue for; `*` is every queue and dead-letter queue. */
  readonly sendsTo: readonly string[];
  readonly logRetentionDays: number;
}

/** One job: its queue wakes it. */
export interface JobDeclaration extends FunctionDeclaration {
  /** Connections to the database of one instance. */
  readonly connections: number;
  /** What `/tmp` holds. */
  readonly ephemeralStorageMb: number;
  readonly priority: 'user-facing' | 'near-real-time' | 'scheduled' | 'background';
  readonly batch: { readonly size: number; readonly windowSeconds: number };
  readonly schedules: readonly ScheduleDeclaration[];
  /** Topics whose messages come to the queue as they are. */
  readonly topics: readonly string[];
  readonly queue: {
    readonly visibilityTimeoutSeconds: number;
    readonly maxReceiveCount: number;
    readonly retentionSeconds: number;
    readonly deadLetterRetentionSeconds: number;
  };
  readonly alarms: { readonly oldestMessageSeconds: number; readonly deadLetters: number };
  /** There is a queue, and no function yet: what is sent waits. */
  readonly awaitsFunction: boolean;
}

/** One HTTP endpoint: its URL wakes it. */
export type EndpointDeclaration = FunctionDeclaration;

/** A message that EventBridge Scheduler puts on the job's own queue. */
export interface ScheduleDeclaration {
  readonly name: string;
  readonly expression: string;
  readonly timezone: string;
  readonly message: Readonly<Record<string, unknown>>;
}

/** Every job and endpoint, in the order of the catalog. */
export interface Catalog {
  readonly version: number;
  readonly jobs: readonly JobDeclaration[];
  readonly endpoints: readonly EndpointDeclaration[];
}

/** Everything that has code. */
export function functionsOf({ jobs, endpoints }: Catalog): FunctionDeclaration[] {
  return [...jobs.filter((job) => !job.awaitsFunction), ...endpoints];
}

/** The checked-in catalog. */
export function readCatalog(file: URL = new URL('../catalog.json', import.meta.url)): Catalog {
  const catalog = JSON.parse(readFileSync(file, 'utf8')) as Catalog;
  if (catalog.version !== 1)
    throw new Error(`catalog version ${catalog.version} is not 1: this app is older than the catalog`);
  return catalog;
}

/** What the catalog has for one domain. */
export interface Domain {
  readonly jobs: JobDeclaration[];
  readonly endpoints: EndpointDeclaration[];
}

/** The catalog by domain. */
export function byDomain(catalog: Catalog): Map<string, Domain> {
  const domains = new Map<string, Domain>();
  const domainOf = ({ domain }: FunctionDeclaration): Domain => {
    const known = domains.get(domain) ?? { jobs: [], endpoints: [] };
    domains.set(domain, known);
    return known;
  };
  for (const job of catalog.jobs) domainOf(job).jobs.push(job);
  for (const endpoint of catalog.endpoints) domainOf(endpoint).endpoints.push(endpoint);
  return domains;
}
