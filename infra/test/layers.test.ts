import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { test } from 'node:test';

test('the build of the ffmpeg layer refuses what is unfit and leaves nothing half done', () => {
  const cwd = new URL('../layers/ffmpeg/', import.meta.url);
  // -B: no cache of byte code between the sources.
  const { error, status, stderr } = spawnSync('python3', ['-B', '-m', 'unittest'], { cwd, encoding: 'utf8' });
  assert.equal(status, 0, error?.message ?? stderr);
});
