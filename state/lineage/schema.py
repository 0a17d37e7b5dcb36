"""The schema of lineage.db as numbered migrations: append only, never edit one that has shipped.

Tables hold facts that are written once; only `runs.status`, `runs.config` with its hash and `rounds.*`
change later, and `config_changes` keeps what the config was before. `seal` is a hash of its row, of
`state.lineage.seals`. The views derive nll, IFD and r-IFD from the stored sums, for people who open the file
themselves.
"""

from sqlite_utils import Migrations
from sqlite_utils.db import Database

from reflectune.state.lineage.views import DECIDING_ROUND, OUTCOME_OF_PHASE, VIEWS, evolution

migrations = Migrations("reflectune")


@migrations(name="0001_tables")
def create_tables(db: Database) -> None:
    """Every table of the lineage."""
    db.executescript("""
        CREATE TABLE runs (
            name TEXT PRIMARY KEY,
            created_at TEXT NOT NULL,
            config TEXT NOT NULL,
            config_hash TEXT NOT NULL,
            data_hash TEXT NOT NULL,
            versions TEXT NOT NULL,
            status TEXT NOT NULL CHECK (status IN ('running', 'interrupted', 'budget', 'failed', 'finished')),
            seed INTEGER NOT NULL
        ) STRICT;

        CREATE TABLE samples (
            id TEXT PRIMARY KEY,
            position INTEGER NOT NULL UNIQUE,
            source_hash TEXT NOT NULL,
            split TEXT NOT NULL CHECK (split IN ('train', 'holdout')),
            meta TEXT NOT NULL
        ) STRICT;

        CREATE TABLE students (
            id TEXT PRIMARY KEY,
            round INTEGER NOT NULL UNIQUE,
            base_model TEXT NOT NULL,
            base_revision TEXT,
            adapter TEXT,
            adapter_hash TEXT,
            parent_id TEXT REFERENCES students(id),
            metrics TEXT NOT NULL
        ) STRICT;

        -- student_id is the student that the round ends with; NULL until its refinetune is done.
        CREATE TABLE rounds (
            round INTEGER PRIMARY KEY,
            student_id TEXT REFERENCES students(id),
            started_at TEXT NOT NULL,
            finished_at TEXT,
            status TEXT NOT NULL CHECK (status IN ('running', 'finished')),
            stop_reason TEXT,
            metrics TEXT NOT NULL
        ) STRICT;

        CREATE TABLE teacher_calls (
            id TEXT PRIMARY KEY,
            round INTEGER NOT NULL,
            phase TEXT NOT NULL CHECK (phase IN ('instruction', 'response')),
            sample_id TEXT NOT NULL REFERENCES samples(id),
            candidate INTEGER NOT NULL,
            attempt INTEGER NOT NULL,
            engine TEXT NOT NULL,
            model TEXT NOT NULL,
            prompt_hash TEXT NOT NULL,
            text TEXT NOT NULL,
            finish_reason TEXT,
            status TEXT NOT NULL,
            error TEXT,
            critique TEXT,
            prompt_tokens INTEGER,
            completion_tokens INTEGER,
            cost_usd REAL,
            seconds REAL NOT NULL,
            UNIQUE (round, phase, sample_id, candidate, attempt)
        ) STRICT;

        CREATE TABLE versions (
            id TEXT PRIMARY KEY,
            sample_id TEXT NOT NULL REFERENCES samples(id),
            parent_id TEXT REFERENCES versions(id),
            round INTEGER NOT NULL,
            phase TEXT NOT NULL CHECK (phase IN ('original', 'instruction', 'response')),
            candidate INTEGER NOT NULL,
            instruction TEXT NOT NULL,
            input TEXT NOT NULL,
            response TEXT NOT NULL,
            teacher_call_id TEXT REFERENCES teacher_calls(id)
        ) STRICT;
        CREATE UNIQUE INDEX versions_place ON versions (sample_id, round, phase, candidate);

        CREATE TABLE scores (
            version_id TEXT NOT NULL REFERENCES versions(id),
            student_id TEXT NOT NULL REFERENCES students(id),
            term TEXT NOT NULL CHECK (term IN ('response_given_instruction', 'response_alone',
                                               'instruction_given_response', 'instruction_alone')),
            sum_logprob REAL,
            num_tokens INTEGER,
            status TEXT NOT NULL,
            truncated INTEGER NOT NULL,
            PRIMARY KEY (version_id, student_id, term),
            CHECK ((status = 'ok') = (sum_logprob IS NOT NULL) AND (status = 'ok') = (num_tokens IS NOT NULL))
        ) STRICT, WITHOUT ROWID;

        CREATE TABLE decisions (
            round INTEGER NOT NULL REFERENCES rounds(round),
            phase TEXT NOT NULL CHECK (phase IN ('instruction', 'response')),
            sample_id TEXT NOT NULL REFERENCES samples(id),
            student_id TEXT REFERENCES students(id),
            policy TEXT NOT NULL,
            incumbent_id TEXT NOT NULL REFERENCES versions(id),
            winner_id TEXT NOT NULL REFERENCES versions(id),
            challenger_id TEXT REFERENCES versions(id),
            reason TEXT NOT NULL CHECK (reason IN ('accepted', 'refused', 'tie', 'unscorable',
                                                   'no-candidate', 'frozen', 'policy')),
            incumbent_value REAL,
            winner_value REAL,
            challenger_value REAL,
            margin REAL NOT NULL,
            PRIMARY KEY (round, phase, sample_id),
            CHECK ((reason = 'accepted') = (winner_id <> incumbent_id))
        ) STRICT, WITHOUT ROWID;
        CREATE INDEX decisions_sample ON decisions (sample_id);

        CREATE TABLE training_sets (
            round INTEGER NOT NULL REFERENCES rounds(round),
            version_id TEXT NOT NULL REFERENCES versions(id),
            rank INTEGER NOT NULL,
            PRIMARY KEY (round, version_id)
        ) STRICT, WITHOUT ROWID;
        CREATE INDEX training_sets_version ON training_sets (version_id);

        CREATE TABLE evaluations (
            round INTEGER NOT NULL REFERENCES rounds(round),
            student_id TEXT NOT NULL REFERENCES students(id),
            name TEXT NOT NULL,
            value REAL NOT NULL,
            n INTEGER NOT NULL,
            low REAL,
            high REAL,
            PRIMARY KEY (round, name)
        ) STRICT, WITHOUT ROWID;
    """)


@migrations(name="0002_views")
def create_views(db: Database) -> None:
    """Views for readers of the file."""
    db.executescript("""
        -- One row per version and student. Mean negative log-likelihoods in nats per token; a measure
        -- whose terms are missing or could not be scored is NULL.
        CREATE VIEW pair_scores AS
        WITH terms AS (
            SELECT version_id, student_id,
                MAX(CASE term WHEN 'response_given_instruction' THEN -sum_logprob / num_tokens END)
                    AS nll_response_given_instruction,
                MAX(CASE term WHEN 'response_alone' THEN -sum_logprob / num_tokens END)
                    AS nll_response_alone,
                MAX(CASE term WHEN 'instruction_given_response' THEN -sum_logprob / num_tokens END)
                    AS nll_instruction_given_response,
                MAX(CASE term WHEN 'instruction_alone' THEN -sum_logprob / num_tokens END)
                    AS nll_instruction_alone,
                MAX(CASE term WHEN 'response_given_instruction' THEN num_tokens END) AS response_tokens,
                COALESCE(MAX(CASE WHEN status <> 'ok' THEN status END), 'ok') AS status,
                MAX(truncated) AS truncated
            FROM scores GROUP BY version_id, student_id
        )
        -- Between these, exp() neither overflows nor becomes 0.
        SELECT *,
            CASE WHEN nll_response_given_instruction - nll_response_alone BETWEEN -744 AND 709
                THEN exp(nll_response_given_instruction - nll_response_alone) END AS ifd,
            CASE WHEN nll_instruction_given_response - nll_instruction_alone BETWEEN -744 AND 709
                THEN exp(nll_instruction_given_response - nll_instruction_alone) END AS r_ifd
        FROM terms;

        -- Every version of every sample in the order it came, with its scores under the student that
        -- decided about it and what became of it.
        CREATE VIEW evolution AS
        SELECT samples.position, samples.id AS sample_id, versions.round, versions.phase,
            versions.candidate, versions.id AS version_id, versions.parent_id,
            versions.instruction, versions.input, versions.response, teacher_calls.critique,
            pair_scores.student_id, pair_scores.ifd, pair_scores.r_ifd, pair_scores.response_tokens,
            CASE WHEN decisions.winner_id = versions.id THEN 'accepted'
                 WHEN decisions.reason = 'accepted' THEN 'refused' ELSE decisions.reason END AS outcome
        FROM versions
        JOIN samples ON samples.id = versions.sample_id
        LEFT JOIN teacher_calls ON teacher_calls.id = versions.teacher_call_id
        LEFT JOIN decisions ON decisions.round = versions.round AND decisions.phase = versions.phase
            AND decisions.sample_id = versions.sample_id
        LEFT JOIN rounds ON rounds.round = MAX(versions.round - 1, 0)
        LEFT JOIN pair_scores ON pair_scores.version_id = versions.id
            AND pair_scores.student_id = rounds.student_id
        ORDER BY samples.position, versions.round, versions.phase, versions.candidate;

        -- One row per round and phase.
        CREATE VIEW round_summary AS
        SELECT decisions.round, decisions.phase, COUNT(*) AS pool,
            SUM(reason = 'accepted') AS accepted, SUM(reason = 'refused') AS refused,
            SUM(reason = 'tie') AS tie, SUM(reason = 'unscorable') AS unscorable,
            SUM(reason = 'no-candidate') AS no_candidate, SUM(reason = 'frozen') AS frozen,
            SUM(reason = 'policy') AS policy,
            (SELECT COUNT(*) FROM training_sets WHERE training_sets.round = decisions.round) AS training
        FROM decisions GROUP BY decisions.round, decisions.phase;
    """)


@migrations(name="0003_config_changes")
def create_config_changes(db: Database) -> None:
    """What was changed in a run's config after it began."""
    db.executescript("""
        -- One row a key; before and after are JSON, null for an unset key. runs.config holds the newest.
        CREATE TABLE config_changes (
            changed_at TEXT NOT NULL,
            key TEXT NOT NULL,
            before TEXT NOT NULL,
            after TEXT NOT NULL
        ) STRICT;
    """)


@migrations(name="0004_cached_calls")
def add_cached(db: Database) -> None:
    """Whether a call's answer came from the cache."""
    # 1: nobody was asked. The token counts are those of the call that once paid; cost_usd and seconds are 0.
    db.execute("ALTER TABLE teacher_calls ADD COLUMN cached INTEGER NOT NULL DEFAULT 0")


@migrations(name="0005_seals")
def add_seals(db: Database) -> None:
    """A hash of each row that nothing else is derived from."""
    # NULL in rows that were written before there were seals.
    for table in (
        "runs", "samples", "students", "teacher_calls", "scores", "evaluations", "config_changes",
    ):  # fmt: skip
        db.execute(f"ALTER TABLE {table} ADD COLUMN seal INTEGER")


@migrations(name="0006_quick_views")
def look_rows_up(db: Database) -> None:
    """`evolution` and a sample's teacher calls without a walk through whole tables, in runs of any size."""
    db.executescript(f"""
        CREATE INDEX teacher_calls_sample ON teacher_calls (sample_id);
        DROP VIEW evolution;
        {evolution("decisions.reason")};
    """)


@migrations(name="0007_pool_and_outcomes")
def add_pool_and_outcomes(db: Database) -> None:
    """The pool after each round, and what each phase came to, as views."""
    db.executescript(f"""
        {";".join(f"CREATE VIEW {name} AS {select}" for name, select in VIEWS.items())};
        DROP VIEW evolution;
        {evolution("outcomes.outcome", OUTCOME_OF_PHASE)};
    """)


@migrations(name="0008_conversations_and_answers")
def create_conversations_and_answers(db: Database) -> None:
    """Conversations that samples are exchanges of, rows that were left out, what students wrote."""
    db.executescript("""
        -- Ranks of training sets, found by an index.
        CREATE INDEX training_sets_rank ON training_sets (round, rank);
        -- What a student wrote for held-out pairs, greedily:
        -- text is NULL where there is no answer, as to too long a prompt; verdict is the checker's, if any.
        CREATE TABLE held_out_answers (
            student_id TEXT NOT NULL REFERENCES students(id),
            sample_id TEXT NOT NULL REFERENCES samples(id),
            text TEXT,
            num_tokens INTEGER,
            verdict REAL,
            seal INTEGER,
            PRIMARY KEY (student_id, sample_id),
            CHECK ((text IS NULL) = (num_tokens IS NULL))
        ) STRICT, WITHOUT ROWID;
        -- What samples are exchanges of. turns: a JSON array of messages (role, content and whatever else
        -- they had), as given. The id is the position of the first sample that comes of it.
        CREATE TABLE conversations (
            id INTEGER PRIMARY KEY,
            turns TEXT NOT NULL,
            seal INTEGER
        ) STRICT;
        -- The sample's exchange begins at this turn, counted from 0; the turns before it are its context.
        ALTER TABLE samples ADD COLUMN conversation_id INTEGER REFERENCES conversations(id);
        ALTER TABLE samples ADD COLUMN turn INTEGER NOT NULL DEFAULT 0;
        -- 1: later turns depend on its instruction, which stays as it is.
        ALTER TABLE samples ADD COLUMN followed INTEGER NOT NULL DEFAULT 0;
        -- Rows of the given data that were left out; examples is a JSON array of texts.
        CREATE TABLE skipped_rows (
            kind TEXT PRIMARY KEY,
            number INTEGER NOT NULL,
            examples TEXT NOT NULL,
            seal INTEGER
        ) STRICT;
    """)


@migrations(name="0009_servers")
def create_servers(db: Database) -> None:
    """Which server was asked."""
    db.executescript("""
        -- Addresses without user, query and key, numbered as they were first asked.
        CREATE TABLE servers (
            id INTEGER PRIMARY KEY,
            address TEXT NOT NULL UNIQUE,
            seal INTEGER
        ) STRICT;
        -- NULL where no server was asked: a model on this machine, a recording, the cache, an older version.
        ALTER TABLE teacher_calls ADD COLUMN server_id INTEGER REFERENCES servers(id);
    """)


@migrations(name="0010_alarms_and_judge_calls")
def create_alarms_and_judge_calls(db: Database) -> None:
    """What tells a collapse, what a judge said of answers, and `evolution` where the base decides."""
    db.executescript(f"""
        -- Figures of rounds by the name of their alarm; the thresholds in the config say which of them fire.
        CREATE TABLE alarms (
            round INTEGER NOT NULL REFERENCES rounds(round),
            name TEXT NOT NULL,
            value REAL NOT NULL,
            PRIMARY KEY (round, name)
        ) STRICT, WITHOUT ROWID;

        -- Each request to the judge: a student's answer beside its opponent's, of a student or 'references'.
        -- swapped 1: the opponent's was shown first. verdict is of the answers as they were shown, and NULL
        -- unless status is 'ok'. cached and the other columns are as of teacher_calls.
        CREATE TABLE judge_calls (
            student_id TEXT NOT NULL REFERENCES students(id),
            opponent TEXT NOT NULL,
            sample_id TEXT NOT NULL REFERENCES samples(id),
            swapped INTEGER NOT NULL CHECK (swapped IN (0, 1)),
            attempt INTEGER NOT NULL,
            engine TEXT NOT NULL,
            model TEXT NOT NULL,
            prompt_hash TEXT NOT NULL,
            text TEXT NOT NULL,
            finish_reason TEXT,
            status TEXT NOT NULL,
            error TEXT,
            verdict TEXT CHECK (verdict IN ('first', 'second', 'tie')),
            prompt_tokens INTEGER,
            completion_tokens INTEGER,
            cost_usd REAL,
            seconds REAL NOT NULL,
            cached INTEGER NOT NULL,
            server_id INTEGER REFERENCES servers(id),
            seal INTEGER,
            PRIMARY KEY (student_id, sample_id, opponent, swapped, attempt),
            CHECK ((status = 'ok') = (verdict IS NOT NULL))
        ) STRICT, WITHOUT ROWID;
        DROP VIEW evolution;
        {evolution("outcomes.outcome", OUTCOME_OF_PHASE, DECIDING_ROUND)};
    """)
