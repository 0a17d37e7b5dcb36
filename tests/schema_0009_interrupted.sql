BEGIN TRANSACTION;
CREATE TABLE "_sqlite_migrations" (
   "id" INTEGER PRIMARY KEY,
   "migration_set" TEXT,
   "name" TEXT,
   "applied_at" TEXT
);
INSERT INTO "_sqlite_migrations" VALUES(1,'reflectune','0001_tables','2026-11-29 11:07:05.266570+00:00');
INSERT INTO "_sqlite_migrations" VALUES(2,'reflectune','0002_views','2026-11-29 11:07:05.388700+00:00');
INSERT INTO "_sqlite_migrations" VALUES(3,'reflectune','0003_config_changes','2026-11-29 11:07:05.397834+00:00');
INSERT INTO "_sqlite_migrations" VALUES(4,'reflectune','0004_cached_calls','2026-11-29 11:07:05.418036+00:00');
INSERT INTO "_sqlite_migrations" VALUES(5,'reflectune','0005_seals','2026-11-29 11:07:05.432432+00:00');
INSERT INTO "_sqlite_migrations" VALUES(6,'reflectune','0006_quick_views','2026-11-29 11:07:05.505484+00:00');
INSERT INTO "_sqlite_migrations" VALUES(7,'reflectune','0007_pool_and_outcomes','2026-11-29 11:07:05.610794+00:00');
INSERT INTO "_sqlite_migrations" VALUES(8,'reflectune','0008_conversations_and_answers','2026-11-29 11:07:05.649904+00:00');
INSERT INTO "_sqlite_migrations" VALUES(9,'reflectune','0009_servers','2026-11-29 11:07:05.660098+00:00');
CREATE TABLE config_changes (
            changed_at TEXT NOT NULL,
            key TEXT NOT NULL,
            before TEXT NOT NULL,
            after TEXT NOT NULL
        , seal INTEGER) STRICT;
CREATE TABLE conversations (
            id INTEGER PRIMARY KEY,
            turns TEXT NOT NULL,
            seal INTEGER
        ) STRICT;
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
INSERT INTO "decisions" VALUES(1,'instruction','00000000-fc32fdfa52268e0e','s0','ifd+r-ifd','00000000-8b62b99d0c34c854e70f9c58456c91b2','00000000-8c0a99e94885fbb5a1077453a925c89a','00000000-8c0a99e94885fbb5a1077453a925c89a','accepted',8.4989056843562660326e-01,1.11519364993934400054e+00,1.11519364993934400054e+00,0.0);
INSERT INTO "decisions" VALUES(1,'instruction','00000002-5d2c1c3f480e9cc9','s0','ifd+r-ifd','00000002-3fbcd7d95cf6c71fffa20e8b1124f015','00000002-3364383a82ecd68016d5dd9007d97931','00000002-3364383a82ecd68016d5dd9007d97931','accepted',1.04259247598709570148e+00,1.08612042699006972057e+00,1.08612042699006972057e+00,0.0);
INSERT INTO "decisions" VALUES(1,'instruction','00000003-e73b86bce46daadc','s0','ifd+r-ifd','00000003-89b69cf97dc84b8e8fd253d0291079fe','00000003-a396c1fe4f302930febe54cbc91ec087','00000003-a396c1fe4f302930febe54cbc91ec087','accepted',0.954783359180914,1.04677512509423498165e+00,1.04677512509423498165e+00,0.0);
INSERT INTO "decisions" VALUES(1,'instruction','00000005-868bc037f121549b','s0','ifd+r-ifd','00000005-16a3fd79733e0e69a8d9cd74849c5db8','00000005-9891659b24e849471db784ec7b40dc59','00000005-9891659b24e849471db784ec7b40dc59','accepted',9.28595811150217276264e-01,1.12327930063364433976e+00,1.12327930063364433976e+00,0.0);
INSERT INTO "decisions" VALUES(1,'instruction','00000006-17b6b023357b8d6e','s0','ifd+r-ifd','00000006-69e37bbabbea14c0e0f64587e89f772e','00000006-69e37bbabbea14c0e0f64587e89f772e','00000006-fb3c1581bdd7f3be488698cd1633202d','refused',1.0601655252460222556e+00,1.0601655252460222556e+00,1.05944064382022640202e+00,0.0);
INSERT INTO "decisions" VALUES(1,'instruction','00000007-0ac1a91ec4485912','s0','ifd+r-ifd','00000007-1b92261b4526977cda155fc66a3b062a','00000007-1b92261b4526977cda155fc66a3b062a','00000007-65245323aebacc0c92ea57a0a905e214','refused',1.32772233656284699421e+00,1.32772233656284699421e+00,1.09097687204031057461e+00,0.0);
INSERT INTO "decisions" VALUES(1,'instruction','00000008-77318010aae8f7d3','s0','ifd+r-ifd','00000008-70f4a53a5f740dd99f7e83399aaed77a','00000008-6b5d104ae0ab3d213aaa13c60857f308','00000008-6b5d104ae0ab3d213aaa13c60857f308','accepted',0.868850421711786,1.02179092824089456925e+00,1.02179092824089456925e+00,0.0);
INSERT INTO "decisions" VALUES(1,'instruction','00000009-88ff6b0a7e71e584',NULL,'ifd+r-ifd','00000009-8e4e8fe438d59aedcbd56846ae11a52b','00000009-8e4e8fe438d59aedcbd56846ae11a52b',NULL,'no-candidate',NULL,NULL,NULL,0.0);
INSERT INTO "decisions" VALUES(1,'instruction','00000010-a380be64fdd6ae7f','s0','ifd+r-ifd','00000010-ad54d02605c7c9949e93c741cd27c052','00000010-4ea59ae2137072d68f0f6ed4b64f5efc','00000010-4ea59ae2137072d68f0f6ed4b64f5efc','accepted',9.94320499881224173499e-01,1.07314758811893873335e+00,1.07314758811893873335e+00,0.0);
INSERT INTO "decisions" VALUES(1,'instruction','00000011-c6455968d18bd912','s0','ifd+r-ifd','00000011-e880a78fd5919ce3c33f173a38d003c5','00000011-6e5c193591443217b165d9905c0ccd45','00000011-6e5c193591443217b165d9905c0ccd45','accepted',9.20063981364223404391e-01,1.05068705187654254373e+00,1.05068705187654254373e+00,0.0);
CREATE TABLE evaluations (
            round INTEGER NOT NULL REFERENCES rounds(round),
            student_id TEXT NOT NULL REFERENCES students(id),
            name TEXT NOT NULL,
            value REAL NOT NULL,
            n INTEGER NOT NULL,
            low REAL,
            high REAL, seal INTEGER,
            PRIMARY KEY (round, name)
        ) STRICT, WITHOUT ROWID;
INSERT INTO "evaluations" VALUES(0,'s0','nll',5.89339447021484375e+00,2,5.84833516120910701374e+00,5.93845377922058048625e+00,43463526063978822);
INSERT INTO "evaluations" VALUES(0,'s0','response_tokens',8.0,2,8.0,8.0,6612156052761879137);
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
INSERT INTO "held_out_answers" VALUES('s0','00000001-6da00855ddfead12','R��R��R�',8,NULL,3823414264616139760);
INSERT INTO "held_out_answers" VALUES('s0','00000004-8876d1af47ffdc16','R��R��}R',8,NULL,1441099820759156413);
CREATE TABLE rounds (
            round INTEGER PRIMARY KEY,
            student_id TEXT REFERENCES students(id),
            started_at TEXT NOT NULL,
            finished_at TEXT,
            status TEXT NOT NULL CHECK (status IN ('running', 'finished')),
            stop_reason TEXT,
            metrics TEXT NOT NULL
        ) STRICT;
INSERT INTO "rounds" VALUES(0,'s0','2026-11-29T11:07:05+00:00','2026-11-29T11:07:06+00:00','finished',NULL,'{"seconds":{"evaluate":0.818549718002032}}');
INSERT INTO "rounds" VALUES(1,NULL,'2026-11-29T11:07:06+00:00',NULL,'running',NULL,'{"seconds":{"reflect":0.179638869001792,"select":0.522890342999744},"signal":{"positions":[0,2,3,5,6,7,8,9,10,11],"pairs":10,"matched":{"ifd":{"value":0.49,"low":0.22940305874083095,"high":0.7561477446345014,"n":10},"r_ifd":{"value":0.44,"low":0.1829438114700631,"high":0.7186890494478648,"n":10}},"below_one":{"ifd":0.7,"r_ifd":0.1},"below_one_shuffled":{"ifd":0.7,"r_ifd":0.1},"follows_length":{"ifd":0.031164899666948576,"r_ifd":-0.5422692542049052,"nll":0.09972767893423544}}}');
CREATE TABLE runs (
            name TEXT PRIMARY KEY,
            created_at TEXT NOT NULL,
            config TEXT NOT NULL,
            config_hash TEXT NOT NULL,
            data_hash TEXT NOT NULL,
            versions TEXT NOT NULL,
            status TEXT NOT NULL CHECK (status IN ('running', 'interrupted', 'budget', 'failed', 'finished')),
            seed INTEGER NOT NULL
        , seal INTEGER) STRICT;
INSERT INTO "runs" VALUES('interrupted','2026-11-29T11:07:05+00:00','{"name": "interrupted", "rounds": 2, "seed": 0, "data": {"path": "/world/data.json", "hf": null, "subset": null, "split": "train", "format": "auto", "columns": {}, "roles": {}, "turns": "last", "limit": null, "holdout": 2, "ignore": [], "odd": {}}, "teacher": {"engine": "recorded", "model": null, "revision": null, "base_url": null, "api_key_env": null, "api_version": null, "temperature": null, "top_p": null, "send_seed": false, "extra_body": {}, "extra_headers": {}, "max_tokens": 2048, "concurrency": null, "timeout": 600.0, "wait": 600.0, "retries": 2, "price_in": null, "price_out": null, "prices": null, "budget_tokens": null, "budget_usd": null, "cache": "on", "dtype": "auto", "quantization": null, "tensor_parallel_size": null, "gpu_memory_utilization": null, "max_model_len": null, "path": "/world/teacher.jsonl", "prompts": null, "candidates": 1, "structured": true, "freeze_after": null}, "student": {"model": "/world/student", "revision": null, "template": "plain", "thinking": false, "date": "2024-07-26", "separator": "<s>", "max_length": 256, "dtype": "float32", "load_in_4bit": false, "device": "auto", "batch_tokens": 2048, "threads": 1}, "selection": {"policy": "ifd+r-ifd", "scorer": "newest", "margin": 0.0, "length_band": 1.5, "train_max_ifd": 1000000.0, "ifd_cap": null, "train_max_r_ifd": 1000000.0, "keep": "improved", "top_fraction": 1.0, "random_rate": 0.5}, "refinetune": {"r": 4, "alpha": 8, "dropout": 0.0, "target_modules": "all-linear", "lr": 0.01, "epochs": 1, "tokens": null, "batch_tokens": 512, "warmup": 0.03, "start_from": "base", "gradient_checkpointing": false, "turns": "recycled", "anchor": 0.0}, "evaluate": {"every": 1, "checker": null, "answers": 500, "max_tokens": 8, "base_samples": 1000}, "judge": null, "stop": {"patience": null, "min_acceptance": 0.0, "max_drop": null, "rollback": false, "max_failures": 0.5}, "scale": {"engine": "local", "address": null, "students": 1, "gpus_per_student": null, "teachers": 1, "gpus_per_teacher": null, "trainers": 1, "overlap": false}}','35d73cfbd30423b6e876326c1f625b3b','f89ec5be5669d7d964c19c8e1b9954a3','{"reflectune": "0.1.0", "torch": "2.13.0+cpu", "transformers": "5.19.0", "peft": "0.21.2", "langgraph": "1.2.22", "sqlite-utils": "4.2.1", "graph": "060840373bbcbe29ea40e37f7850a9aa", "config": "35d73cfbd30423b6e876326c1f625b3b", "student.model": "dfb25c6a7d36fe5942d340ddb39fd604", "teacher.path": "0e958b0b56025dcaeef8fe25ea0c37f2"}','interrupted',0,857671152115256985);
CREATE TABLE samples (
            id TEXT PRIMARY KEY,
            position INTEGER NOT NULL UNIQUE,
            source_hash TEXT NOT NULL,
            split TEXT NOT NULL CHECK (split IN ('train', 'holdout')),
            meta TEXT NOT NULL
        , seal INTEGER, conversation_id INTEGER REFERENCES conversations(id), turn INTEGER NOT NULL DEFAULT 0, followed INTEGER NOT NULL DEFAULT 0) STRICT;
INSERT INTO "samples" VALUES('00000000-fc32fdfa52268e0e',0,'2fa5b1c52c9b1db82747c1d9130f56ee','train','{}',3821858519420295531,NULL,0,0);
INSERT INTO "samples" VALUES('00000001-6da00855ddfead12',1,'82d6a58209d77cb1a569c6cdd08140e9','holdout','{}',4005329017101285191,NULL,0,0);
INSERT INTO "samples" VALUES('00000002-5d2c1c3f480e9cc9',2,'c0543c98d13fe9ce2233382fed4d3e5a','train','{}',4922684808164164807,NULL,0,0);
INSERT INTO "samples" VALUES('00000003-e73b86bce46daadc',3,'a01106c32a7c7907fb6ca1ff2b06e0c7','train','{}',72709884448668515,NULL,0,0);
INSERT INTO "samples" VALUES('00000004-8876d1af47ffdc16',4,'6e34633d389524da8a4effff534d6b68','holdout','{}',6927684854235721773,NULL,0,0);
INSERT INTO "samples" VALUES('00000005-868bc037f121549b',5,'5fde59676a224fd883402728ee719292','train','{}',2088906829219585584,NULL,0,0);
INSERT INTO "samples" VALUES('00000006-17b6b023357b8d6e',6,'271928b43dda2742852c099aad882b34','train','{}',4817916233041838885,NULL,0,0);
INSERT INTO "samples" VALUES('00000007-0ac1a91ec4485912',7,'c392e5d02efde02d8e749e2f2b12146f','train','{}',4839894943716850600,NULL,0,0);
INSERT INTO "samples" VALUES('00000008-77318010aae8f7d3',8,'f57e4774d3d334b56b7c013de8501e2b','train','{}',4728309472790197277,NULL,0,0);
INSERT INTO "samples" VALUES('00000009-88ff6b0a7e71e584',9,'2404ac06286e56d7aa62ea0a7bf3e821','train','{}',1780468119518053569,NULL,0,0);
INSERT INTO "samples" VALUES('00000010-a380be64fdd6ae7f',10,'4ceeb84645810215ca41541d146e50ee','train','{}',2458391956657468316,NULL,0,0);
INSERT INTO "samples" VALUES('00000011-c6455968d18bd912',11,'989c51b5b611d2ce34927a53c5802825','train','{}',3781141324735602330,NULL,0,0);
CREATE TABLE scores (
            version_id TEXT NOT NULL REFERENCES versions(id),
            student_id TEXT NOT NULL REFERENCES students(id),
            term TEXT NOT NULL CHECK (term IN ('response_given_instruction', 'response_alone',
                                               'instruction_given_response', 'instruction_alone')),
            sum_logprob REAL,
            num_tokens INTEGER,
            status TEXT NOT NULL,
            truncated INTEGER NOT NULL, seal INTEGER,
            PRIMARY KEY (version_id, student_id, term),
            CHECK ((status = 'ok') = (sum_logprob IS NOT NULL) AND (status = 'ok') = (num_tokens IS NOT NULL))
        ) STRICT, WITHOUT ROWID;
INSERT INTO "scores" VALUES('00000000-8b62b99d0c34c854e70f9c58456c91b2','s0','response_alone',-6.56692023277282714826e+01,11,'ok',0,1673589805696465314);
INSERT INTO "scores" VALUES('00000000-8b62b99d0c34c854e70f9c58456c91b2','s0','response_given_instruction',-6.38800778388977050789e+01,11,'ok',0,21993283765804738);
INSERT INTO "scores" VALUES('00000000-8c0a99e94885fbb5a1077453a925c89a','s0','response_alone',-1.23372281551361083983e+02,21,'ok',0,2915886341503101096);
INSERT INTO "scores" VALUES('00000000-8c0a99e94885fbb5a1077453a925c89a','s0','response_given_instruction',-1.2566187095642089844e+02,21,'ok',0,2311503464283551880);
INSERT INTO "scores" VALUES('00000001-0c4052e888ccd0b8835f3681c0dee867','s0','response_given_instruction',-8.28293747901916503888e+01,14,'ok',0,6395471391786346974);
INSERT INTO "scores" VALUES('00000002-3364383a82ecd68016d5dd9007d97931','s0','response_alone',-1.23840419292449951168e+02,21,'ok',0,6659583527811323080);
INSERT INTO "scores" VALUES('00000002-3364383a82ecd68016d5dd9007d97931','s0','response_given_instruction',-1.25575273513793945307e+02,21,'ok',0,2484973868990423532);
INSERT INTO "scores" VALUES('00000002-3fbcd7d95cf6c71fffa20e8b1124f015','s0','response_alone',-5.92538018226623535138e+01,10,'ok',0,856743350814145841);
INSERT INTO "scores" VALUES('00000002-3fbcd7d95cf6c71fffa20e8b1124f015','s0','response_given_instruction',-5.96709055900573730451e+01,10,'ok',0,3892377643517081786);
INSERT INTO "scores" VALUES('00000003-89b69cf97dc84b8e8fd253d0291079fe','s0','response_alone',-8.30076317787170410173e+01,14,'ok',0,4619375325241186938);
INSERT INTO "scores" VALUES('00000003-89b69cf97dc84b8e8fd253d0291079fe','s0','response_given_instruction',-82.3598403930664,14,'ok',0,3805831372213509529);
INSERT INTO "scores" VALUES('00000003-a396c1fe4f302930febe54cbc91ec087','s0','response_alone',-1.23827991962432861329e+02,21,'ok',0,1293610162018652555);
INSERT INTO "scores" VALUES('00000003-a396c1fe4f302930febe54cbc91ec087','s0','response_given_instruction',-1.2478798866271972656e+02,21,'ok',0,6501792255114661857);
INSERT INTO "scores" VALUES('00000004-e7269c032e39b97113324ccd0c137352','s0','response_given_instruction',-8.21856703758239746059e+01,14,'ok',0,6243918086153725542);
INSERT INTO "scores" VALUES('00000005-16a3fd79733e0e69a8d9cd74849c5db8','s0','response_alone',-77.1395411491394,13,'ok',0,5565419327037856206);
INSERT INTO "scores" VALUES('00000005-16a3fd79733e0e69a8d9cd74849c5db8','s0','response_given_instruction',-7.61764788627624511718e+01,13,'ok',0,1641261024219965262);
INSERT INTO "scores" VALUES('00000005-9891659b24e849471db784ec7b40dc59','s0','response_alone',-1.23629614830017089846e+02,21,'ok',0,8167392200329909244);
INSERT INTO "scores" VALUES('00000005-9891659b24e849471db784ec7b40dc59','s0','response_given_instruction',-1.26070914268493652345e+02,21,'ok',0,2538389812587810934);
INSERT INTO "scores" VALUES('00000006-69e37bbabbea14c0e0f64587e89f772e','s0','response_alone',-8.30412530899047851562e+01,14,'ok',0,2440648689761719439);
INSERT INTO "scores" VALUES('00000006-69e37bbabbea14c0e0f64587e89f772e','s0','response_given_instruction',-83.8592038154602,14,'ok',0,3888312920606964078);
INSERT INTO "scores" VALUES('00000006-fb3c1581bdd7f3be488698cd1633202d','s0','response_alone',-1.23669492244720458985e+02,21,'ok',0,4210573178586196774);
INSERT INTO "scores" VALUES('00000006-fb3c1581bdd7f3be488698cd1633202d','s0','response_given_instruction',-1.24882054805755615233e+02,21,'ok',0,3767443614444597061);
INSERT INTO "scores" VALUES('00000007-1b92261b4526977cda155fc66a3b062a','s0','response_alone',-7.41017141342163085946e+01,13,'ok',0,6170526237511504960);
INSERT INTO "scores" VALUES('00000007-1b92261b4526977cda155fc66a3b062a','s0','response_given_instruction',-7.77867584228515625017e+01,13,'ok',0,6147893575422388670);
INSERT INTO "scores" VALUES('00000007-65245323aebacc0c92ea57a0a905e214','s0','response_alone',-1.23012336730957031253e+02,21,'ok',0,9085173896382348021);
INSERT INTO "scores" VALUES('00000007-65245323aebacc0c92ea57a0a905e214','s0','response_given_instruction',-1.24840880393981933592e+02,21,'ok',0,1067278370357385272);
INSERT INTO "scores" VALUES('00000008-6b5d104ae0ab3d213aaa13c60857f308','s0','response_alone',-1.23758926391601562497e+02,21,'ok',0,8769169434285080405);
INSERT INTO "scores" VALUES('00000008-6b5d104ae0ab3d213aaa13c60857f308','s0','response_given_instruction',-1.24211621284484863281e+02,21,'ok',0,6636854686377435698);
INSERT INTO "scores" VALUES('00000008-70f4a53a5f740dd99f7e83399aaed77a','s0','response_alone',-6.39890823364257812491e+01,11,'ok',0,4076569014503547586);
INSERT INTO "scores" VALUES('00000008-70f4a53a5f740dd99f7e83399aaed77a','s0','response_given_instruction',-6.24426550865173339826e+01,11,'ok',0,946820218005186404);
INSERT INTO "scores" VALUES('00000010-4ea59ae2137072d68f0f6ed4b64f5efc','s0','response_alone',-1.29826172828674316409e+02,22,'ok',0,1297955554256919998);
INSERT INTO "scores" VALUES('00000010-4ea59ae2137072d68f0f6ed4b64f5efc','s0','response_given_instruction',-1.31379284858703613279e+02,22,'ok',0,6226408596615790989);
INSERT INTO "scores" VALUES('00000010-ad54d02605c7c9949e93c741cd27c052','s0','response_alone',-6.67484230995178222638e+01,11,'ok',0,8974718928523377807);
INSERT INTO "scores" VALUES('00000010-ad54d02605c7c9949e93c741cd27c052','s0','response_given_instruction',-66.6857705116272,11,'ok',0,278949358320049565);
INSERT INTO "scores" VALUES('00000011-6e5c193591443217b165d9905c0ccd45','s0','response_alone',-1.30831465244293212893e+02,22,'ok',0,911198428334869310);
INSERT INTO "scores" VALUES('00000011-6e5c193591443217b165d9905c0ccd45','s0','response_given_instruction',-1.31919239521026611329e+02,22,'ok',0,4754184675921194506);
INSERT INTO "scores" VALUES('00000011-e880a78fd5919ce3c33f173a38d003c5','s0','response_alone',-9.05303163528442382795e+01,15,'ok',0,7352328658385422327);
INSERT INTO "scores" VALUES('00000011-e880a78fd5919ce3c33f173a38d003c5','s0','response_given_instruction',-8.92806353569030761684e+01,15,'ok',0,8192544492019761821);
CREATE TABLE servers (
            id INTEGER PRIMARY KEY,
            address TEXT NOT NULL UNIQUE,
            seal INTEGER
        ) STRICT;
CREATE TABLE skipped_rows (
            kind TEXT PRIMARY KEY,
            number INTEGER NOT NULL,
            examples TEXT NOT NULL,
            seal INTEGER
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
        , seal INTEGER) STRICT;
INSERT INTO "students" VALUES('s0',0,'/world/student',NULL,NULL,NULL,NULL,'{}',4827881771814832235);
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
            seconds REAL NOT NULL, cached INTEGER NOT NULL DEFAULT 0, seal INTEGER, server_id INTEGER REFERENCES servers(id),
            UNIQUE (round, phase, sample_id, candidate, attempt)
        ) STRICT;
INSERT INTO "teacher_calls" VALUES('00000000-5d27d4522d10f1abf8edbdd933a45e6b',1,'instruction','00000000-fc32fdfa52268e0e',0,1,'recorded','recorded','cc1d372863d1e9cb4a332677aadbd5d3','{"critique": "", "instruction": "List 0 things, attempt 1.", "response": "There are 0 of them after 1 rounds."}','stop','ok',NULL,'',NULL,NULL,NULL,0.0,0,7135533605846728568,NULL);
INSERT INTO "teacher_calls" VALUES('00000002-d213d1c9f855f8a2d7818d9d611d0c7c',1,'instruction','00000002-5d2c1c3f480e9cc9',0,1,'recorded','recorded','ac5ba61ee32020321ebda4f62082a301','{"critique": "", "instruction": "List 2 things, attempt 1.", "response": "There are 2 of them after 1 rounds."}','stop','ok',NULL,'',NULL,NULL,NULL,0.0,0,2737700858636692464,NULL);
INSERT INTO "teacher_calls" VALUES('00000003-8c5cbb8d210ee7305dae31879f05cfd0',1,'instruction','00000003-e73b86bce46daadc',0,1,'recorded','recorded','531b07179ebd1561876641b5a97cbbcc','{"critique": "", "instruction": "List 3 things, attempt 1.", "response": "There are 3 of them after 1 rounds."}','stop','ok',NULL,'',NULL,NULL,NULL,0.0,0,7579333186436093800,NULL);
INSERT INTO "teacher_calls" VALUES('00000005-9f2830c9469753d94c491fad239e2c24',1,'instruction','00000005-868bc037f121549b',0,1,'recorded','recorded','f8323f5004ea46e3322cc5f27cb1474a','{"critique": "", "instruction": "List 5 things, attempt 1.", "response": "There are 5 of them after 1 rounds."}','stop','ok',NULL,'',NULL,NULL,NULL,0.0,0,9157311618729362115,NULL);
INSERT INTO "teacher_calls" VALUES('00000006-b75bb993fa1a5e3e823cc1ab0886a1fe',1,'instruction','00000006-17b6b023357b8d6e',0,1,'recorded','recorded','3b7254b8d20932e880ea290d1535564a','{"critique": "", "instruction": "List 6 things, attempt 1.", "response": "There are 6 of them after 1 rounds."}','stop','ok',NULL,'',NULL,NULL,NULL,0.0,0,3686348418719371009,NULL);
INSERT INTO "teacher_calls" VALUES('00000007-fef4e2fe891740e4d870cb7b2cb8aa62',1,'instruction','00000007-0ac1a91ec4485912',0,1,'recorded','recorded','67ed0e987f16f468d71b37c380803c73','{"critique": "", "instruction": "List 7 things, attempt 1.", "response": "There are 7 of them after 1 rounds."}','stop','ok',NULL,'',NULL,NULL,NULL,0.0,0,7920646287440200829,NULL);
INSERT INTO "teacher_calls" VALUES('00000008-935103478e7ef667b661883080e12b76',1,'instruction','00000008-77318010aae8f7d3',0,1,'recorded','recorded','bcffe42067369fecb3044c44776cc812','{"critique": "", "instruction": "List 8 things, attempt 1.", "response": "There are 8 of them after 1 rounds."}','stop','ok',NULL,'',NULL,NULL,NULL,0.0,0,3607799227917745307,NULL);
INSERT INTO "teacher_calls" VALUES('00000009-99d1c6f5a28e593dc2f852c2952e8547',1,'instruction','00000009-88ff6b0a7e71e584',0,1,'recorded','recorded','3a2f61e91832adaede6c89b6d91b770d','',NULL,'no-entry','the recording has no entry for this pair',NULL,NULL,NULL,NULL,0.0,0,6332148192855613900,NULL);
INSERT INTO "teacher_calls" VALUES('00000010-ab4f02104da4177a18358a2f864a99af',1,'instruction','00000010-a380be64fdd6ae7f',0,1,'recorded','recorded','07c4d389c11c27630acf475879e947f9','{"critique": "", "instruction": "List 10 things, attempt 1.", "response": "There are 10 of them after 1 rounds."}','stop','ok',NULL,'',NULL,NULL,NULL,0.0,0,7680512330449893839,NULL);
INSERT INTO "teacher_calls" VALUES('00000011-b3099ee38faf7fc816ebe9e6b744434c',1,'instruction','00000011-c6455968d18bd912',0,1,'recorded','recorded','b7ee74f0b82c4491b36ba8640b13594e','{"critique": "", "instruction": "List 11 things, attempt 1.", "response": "There are 11 of them after 1 rounds."}','stop','ok',NULL,'',NULL,NULL,NULL,0.0,0,1810561494077839688,NULL);
CREATE TABLE training_sets (
            round INTEGER NOT NULL REFERENCES rounds(round),
            version_id TEXT NOT NULL REFERENCES versions(id),
            rank INTEGER NOT NULL,
            PRIMARY KEY (round, version_id)
        ) STRICT, WITHOUT ROWID;
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
INSERT INTO "versions" VALUES('00000000-8b62b99d0c34c854e70f9c58456c91b2','00000000-fc32fdfa52268e0e',NULL,0,'original',0,'Name 0 things that are red.','Only things of size 0.','Thing 0 is red.',NULL);
INSERT INTO "versions" VALUES('00000001-0c4052e888ccd0b8835f3681c0dee867','00000001-6da00855ddfead12',NULL,0,'original',0,'Name 1 things that are green.','','Thing 1 is green.',NULL);
INSERT INTO "versions" VALUES('00000002-3fbcd7d95cf6c71fffa20e8b1124f015','00000002-5d2c1c3f480e9cc9',NULL,0,'original',0,'Name 2 things that are blue.','','Thing 2 is blue.',NULL);
INSERT INTO "versions" VALUES('00000003-89b69cf97dc84b8e8fd253d0291079fe','00000003-e73b86bce46daadc',NULL,0,'original',0,'Name 3 things that are black.','Only things of size 3.','Thing 3 is black.',NULL);
INSERT INTO "versions" VALUES('00000004-e7269c032e39b97113324ccd0c137352','00000004-8876d1af47ffdc16',NULL,0,'original',0,'Name 4 things that are white.','','Thing 4 is white.',NULL);
INSERT INTO "versions" VALUES('00000005-16a3fd79733e0e69a8d9cd74849c5db8','00000005-868bc037f121549b',NULL,0,'original',0,'Name 5 things that are grey.','','Thing 5 is grey.',NULL);
INSERT INTO "versions" VALUES('00000006-69e37bbabbea14c0e0f64587e89f772e','00000006-17b6b023357b8d6e',NULL,0,'original',0,'Name 6 things that are brown.','Only things of size 6.','Thing 6 is brown.',NULL);
INSERT INTO "versions" VALUES('00000007-1b92261b4526977cda155fc66a3b062a','00000007-0ac1a91ec4485912',NULL,0,'original',0,'Name 7 things that are pink.','','Thing 7 is pink.',NULL);
INSERT INTO "versions" VALUES('00000008-70f4a53a5f740dd99f7e83399aaed77a','00000008-77318010aae8f7d3',NULL,0,'original',0,'Name 8 things that are red.','','Thing 8 is red.',NULL);
INSERT INTO "versions" VALUES('00000009-8e4e8fe438d59aedcbd56846ae11a52b','00000009-88ff6b0a7e71e584',NULL,0,'original',0,'Name 9 things that are green.','Only things of size 9.','Thing 9 is green.',NULL);
INSERT INTO "versions" VALUES('00000010-ad54d02605c7c9949e93c741cd27c052','00000010-a380be64fdd6ae7f',NULL,0,'original',0,'Name 10 things that are blue.','','Thing 10 is blue.',NULL);
INSERT INTO "versions" VALUES('00000011-e880a78fd5919ce3c33f173a38d003c5','00000011-c6455968d18bd912',NULL,0,'original',0,'Name 11 things that are black.','','Thing 11 is black.',NULL);
INSERT INTO "versions" VALUES('00000000-8c0a99e94885fbb5a1077453a925c89a','00000000-fc32fdfa52268e0e','00000000-8b62b99d0c34c854e70f9c58456c91b2',1,'instruction',0,'List 0 things, attempt 1.','','There are 0 of them after 1 rounds.','00000000-5d27d4522d10f1abf8edbdd933a45e6b');
INSERT INTO "versions" VALUES('00000002-3364383a82ecd68016d5dd9007d97931','00000002-5d2c1c3f480e9cc9','00000002-3fbcd7d95cf6c71fffa20e8b1124f015',1,'instruction',0,'List 2 things, attempt 1.','','There are 2 of them after 1 rounds.','00000002-d213d1c9f855f8a2d7818d9d611d0c7c');
INSERT INTO "versions" VALUES('00000003-a396c1fe4f302930febe54cbc91ec087','00000003-e73b86bce46daadc','00000003-89b69cf97dc84b8e8fd253d0291079fe',1,'instruction',0,'List 3 things, attempt 1.','','There are 3 of them after 1 rounds.','00000003-8c5cbb8d210ee7305dae31879f05cfd0');
INSERT INTO "versions" VALUES('00000005-9891659b24e849471db784ec7b40dc59','00000005-868bc037f121549b','00000005-16a3fd79733e0e69a8d9cd74849c5db8',1,'instruction',0,'List 5 things, attempt 1.','','There are 5 of them after 1 rounds.','00000005-9f2830c9469753d94c491fad239e2c24');
INSERT INTO "versions" VALUES('00000006-fb3c1581bdd7f3be488698cd1633202d','00000006-17b6b023357b8d6e','00000006-69e37bbabbea14c0e0f64587e89f772e',1,'instruction',0,'List 6 things, attempt 1.','','There are 6 of them after 1 rounds.','00000006-b75bb993fa1a5e3e823cc1ab0886a1fe');
INSERT INTO "versions" VALUES('00000007-65245323aebacc0c92ea57a0a905e214','00000007-0ac1a91ec4485912','00000007-1b92261b4526977cda155fc66a3b062a',1,'instruction',0,'List 7 things, attempt 1.','','There are 7 of them after 1 rounds.','00000007-fef4e2fe891740e4d870cb7b2cb8aa62');
INSERT INTO "versions" VALUES('00000008-6b5d104ae0ab3d213aaa13c60857f308','00000008-77318010aae8f7d3','00000008-70f4a53a5f740dd99f7e83399aaed77a',1,'instruction',0,'List 8 things, attempt 1.','','There are 8 of them after 1 rounds.','00000008-935103478e7ef667b661883080e12b76');
INSERT INTO "versions" VALUES('00000010-4ea59ae2137072d68f0f6ed4b64f5efc','00000010-a380be64fdd6ae7f','00000010-ad54d02605c7c9949e93c741cd27c052',1,'instruction',0,'List 10 things, attempt 1.','','There are 10 of them after 1 rounds.','00000010-ab4f02104da4177a18358a2f864a99af');
INSERT INTO "versions" VALUES('00000011-6e5c193591443217b165d9905c0ccd45','00000011-c6455968d18bd912','00000011-e880a78fd5919ce3c33f173a38d003c5',1,'instruction',0,'List 11 things, attempt 1.','','There are 11 of them after 1 rounds.','00000011-b3099ee38faf7fc816ebe9e6b744434c');
CREATE UNIQUE INDEX "idx__sqlite_migrations_migration_set_name"
    ON "_sqlite_migrations" ("migration_set", "name");
CREATE UNIQUE INDEX versions_place ON versions (sample_id, round, phase, candidate);
CREATE INDEX decisions_sample ON decisions (sample_id);
CREATE INDEX training_sets_version ON training_sets (version_id);
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
CREATE VIEW round_summary AS
        SELECT decisions.round, decisions.phase, COUNT(*) AS pool,
            SUM(reason = 'accepted') AS accepted, SUM(reason = 'refused') AS refused,
            SUM(reason = 'tie') AS tie, SUM(reason = 'unscorable') AS unscorable,
            SUM(reason = 'no-candidate') AS no_candidate, SUM(reason = 'frozen') AS frozen,
            SUM(reason = 'policy') AS policy,
            (SELECT COUNT(*) FROM training_sets WHERE training_sets.round = decisions.round) AS training
        FROM decisions GROUP BY decisions.round, decisions.phase;
CREATE INDEX teacher_calls_sample ON teacher_calls (sample_id);
CREATE VIEW pool AS 
        SELECT 0 AS round, samples.id AS sample_id, versions.id AS version_id
        FROM samples CROSS JOIN versions ON versions.sample_id = samples.id AND versions.round = 0
            AND versions.phase = 'original'
        WHERE samples.split = 'train'
        UNION ALL
        SELECT round, sample_id, winner_id FROM decisions WHERE phase = 'response';
CREATE VIEW outcomes AS 
        SELECT round, phase, sample_id, reason, last_status,
            CASE WHEN reason IN ('accepted', 'frozen') THEN reason
                WHEN reason <> 'no-candidate' THEN 'refused'
                WHEN last_status IS NULL THEN 'unasked'
                WHEN last_status = 'unchanged' THEN 'unchanged'
                ELSE 'failed' END AS outcome
        FROM (
            SELECT round, phase, sample_id, reason, (
                SELECT status FROM teacher_calls
                WHERE teacher_calls.round = decisions.round AND teacher_calls.phase = decisions.phase
                    AND teacher_calls.sample_id = decisions.sample_id
                ORDER BY candidate DESC, attempt DESC LIMIT 1) AS last_status
            FROM decisions);
CREATE VIEW evolution AS
        SELECT samples.position, samples.id AS sample_id, versions.round, versions.phase,
            versions.candidate, versions.id AS version_id, versions.parent_id,
            versions.instruction, versions.input, versions.response, teacher_calls.critique,
            COALESCE(given.student_id, alone.student_id, reverse.student_id, asked.student_id) AS student_id,
            CASE WHEN (alone.sum_logprob / alone.num_tokens - given.sum_logprob / given.num_tokens) BETWEEN -744 AND 709 THEN exp((alone.sum_logprob / alone.num_tokens - given.sum_logprob / given.num_tokens)) END AS ifd, CASE WHEN (asked.sum_logprob / asked.num_tokens - reverse.sum_logprob / reverse.num_tokens) BETWEEN -744 AND 709 THEN exp((asked.sum_logprob / asked.num_tokens - reverse.sum_logprob / reverse.num_tokens)) END AS r_ifd,
            given.num_tokens AS response_tokens,
            CASE WHEN decisions.winner_id = versions.id THEN 'accepted'
                 WHEN decisions.reason = 'accepted' THEN 'refused' ELSE outcomes.outcome END AS outcome
        FROM samples
        -- In this order, which is that of the rows, so that a page of them needs no sorting.
        CROSS JOIN versions ON versions.sample_id = samples.id
        LEFT JOIN teacher_calls ON teacher_calls.id = versions.teacher_call_id
        LEFT JOIN decisions ON decisions.round = versions.round AND decisions.phase = versions.phase
            AND decisions.sample_id = versions.sample_id
        LEFT JOIN rounds ON rounds.round = MAX(versions.round - 1, 0)
        
        LEFT JOIN outcomes ON outcomes.round = versions.round
            AND outcomes.phase = versions.phase AND outcomes.sample_id = versions.sample_id

        LEFT JOIN scores AS given ON given.version_id = versions.id AND given.student_id = rounds.student_id AND given.term = 'response_given_instruction'
LEFT JOIN scores AS alone ON alone.version_id = versions.id AND alone.student_id = rounds.student_id AND alone.term = 'response_alone'
LEFT JOIN scores AS reverse ON reverse.version_id = versions.id AND reverse.student_id = rounds.student_id AND reverse.term = 'instruction_given_response'
LEFT JOIN scores AS asked ON asked.version_id = versions.id AND asked.student_id = rounds.student_id AND asked.term = 'instruction_alone'
        ORDER BY samples.position, versions.round, versions.phase, versions.candidate;
CREATE INDEX training_sets_rank ON training_sets (round, rank);
COMMIT;
