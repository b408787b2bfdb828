import { existsSync } from 'node:fs';
import { join } from 'node:path';
import type { Stack } from 'aws-cdk-lib';
import * as lambda from 'aws-cdk-lib/aws-lambda';
import type { Capability } from './capability.ts';
import { type Catalog, functionsOf } from './catalog.ts';
import type { Settings } from './settings.ts';

const PROGRAMS = { FFMPEG_BIN: 'ffmpeg', FFPROBE_BIN: 'ffprobe' };
const LAYER = 'Ffmpeg';

/** ffmpeg and ffprobe. */
export class Media implements Capability {
  readonly environment: Record<string, string>;

  constructor(private readonly settings: Settings) {
    // The local engine mounts no layer: its functions run the very files that the layer is made of.
    const root = settings.local ? folder(settings) : '/opt';
    this.environment = programsIn(root);
  }

  grant(): void {}

  /**
   * One layer version for each stack that uses it. In `Data` it would be exported, and an export that is in use can never change:
   * no deployment could bring another ffmpeg.
   */
  layersIn(stack: Stack): lambda.ILayerVersion[] {
    if (this.settings.local) return [];
    const known = stack.node.tryFindChild(LAYER) as lambda.LayerVersion | undefined;
    return [known ?? this.createLayer(stack)];
  }

  private createLayer(stack: Stack): lambda.LayerVersion {
    return new lambda.LayerVersion(stack, LAYER, {
      layerVersionName: `${stack.stackName}-ffmpeg`,
      description: 'The programs ffmpeg and ffprobe; NOTICE.txt tells licence and source',
      license: 'GPL-3.0-or-later',
      code: lambda.Code.fromAsset(folder(this.settings)),
      compatibleRuntimes: [lambda.Runtime.PROVIDED_AL2023],
      compatibleArchitectures: [this.settings.architecture],
    });
  }
}

/** Fails once, naming every function that has no ffmpeg to run and the command that builds the layer. */
export function requireMedia(settings: Settings, catalog: Catalog): void {
  const users = functionsOf(catalog).filter(({ uses }) => uses.includes('media'));
  if (users.length === 0 || Object.values(programsIn(folder(settings))).every((program) => existsSync(program))) return;
  throw new Error(
    `no ffmpeg in ${folder(settings)} for ${users.map(({ name }) => name).join(', ')}\n` +
      `build it: python3 infra/layers/ffmpeg/build.py --architecture ${settings.architecture.name} --into ${settings.layers}`,
  );
}

/** What `layers/ffmpeg/build.py` makes for the architecture of the functions. */
function folder({ layers, architecture }: Settings): string {
  return join(layers, `ffmpeg-${architecture.name}`);
}

function programsIn(root: string): Record<string, string> {
  return Object.fromEntries(Object.entries(PROGRAMS).map(([variable, name]) => [variable, join(root, 'bin', name)]));
}
