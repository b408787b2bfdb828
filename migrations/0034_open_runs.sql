-- Finishing a run well changes no index: the ledger's writes are most of what a small job costs.
-- Locks: ACCESS EXCLUSIVE on job_runs for the column and its values; with much history, run it while the jobs rest.

-- Since when a run waits for another attempt, or for a person. An index whose condition names the status gets a new entry, and with it
-- all others, at the end of each run.
ALTER TABLE job_runs ADD COLUMN open_since timestamptz;
UPDATE job_runs SET open_since = coalesce(finished_at, started_at) WHERE status IN ('deferred', 'retrying', 'dead');
DROP INDEX job_runs_open;
CREATE INDEX job_runs_open ON job_runs (job, open_since) WHERE open_since IS NOT NULL;

-- A row is written twice, when its run begins and when it ends: the second version needs as much room on the page as the first, or
-- every index gets an entry for it after all.
ALTER TABLE job_runs SET (fillfactor = 50);
