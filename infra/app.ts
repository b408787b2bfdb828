import { audit } from './lib/audit.ts';
import { JobsApp } from './lib/jobs-app.ts';

const app = new JobsApp();
(app.settings.local ? app : audit(app)).synth();
