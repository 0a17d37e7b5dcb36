-- A finished run of 12 samples (tests/worlds.py, 2 held out, refinetune.epochs = 1) in /world, as commit
-- 082c25d wrote it: every statement of sqlite3's iterdump.
BEGIN TRANSACTION;
CREATE TABLE "_sqlite_migrations" (
   "id" INTEGER PRIMARY KEY,
   "migration_set" TEXT,
   "name" TEXT,
   "applied_at" TEXT
);
INSERT INTO "_sqlite_migrations" VALUES(1,'reflectune','0001_tables','2026-11-21 08:57:51.328984+00:00');
INSERT INTO "_sqlite_migrations" VALUES(2,'reflectune','0002_views','2026-11-21 08:57:51.341015+00:00');
INSERT INTO "_sqlite_migrations" VALUES(3,'reflectune','0003_config_changes','2026-11-21 08:57:51.341550+00:00');
CREATE TABLE config_changes (
            changed_at TEXT NOT NULL,
            key TEXT NOT NULL,
            before TEXT NOT NULL,
            after TEXT NOT NULL
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
INSERT INTO "decisions" VALUES(1,'instruction','0ac1a91ec4485912','s0','ifd+r-ifd','1b92261b4526977cda155fc66a3b062a','1b92261b4526977cda155fc66a3b062a','65245323aebacc0c92ea57a0a905e214','refused',1.32772233656284699421e+00,1.32772233656284699421e+00,1.09097687204031057461e+00,0.0);
INSERT INTO "decisions" VALUES(1,'instruction','17b6b023357b8d6e','s0','ifd+r-ifd','69e37bbabbea14c0e0f64587e89f772e','69e37bbabbea14c0e0f64587e89f772e','fb3c1581bdd7f3be488698cd1633202d','refused',1.0601655252460222556e+00,1.0601655252460222556e+00,1.05944064382022640202e+00,0.0);
INSERT INTO "decisions" VALUES(1,'instruction','5d2c1c3f480e9cc9','s0','ifd+r-ifd','3fbcd7d95cf6c71fffa20e8b1124f015','3364383a82ecd68016d5dd9007d97931','3364383a82ecd68016d5dd9007d97931','accepted',1.04259247598709570148e+00,1.08612042699006972057e+00,1.08612042699006972057e+00,0.0);
INSERT INTO "decisions" VALUES(1,'instruction','77318010aae8f7d3','s0','ifd+r-ifd','70f4a53a5f740dd99f7e83399aaed77a','6b5d104ae0ab3d213aaa13c60857f308','6b5d104ae0ab3d213aaa13c60857f308','accepted',0.868850421711786,1.02179092824089456925e+00,1.02179092824089456925e+00,0.0);
INSERT INTO "decisions" VALUES(1,'instruction','868bc037f121549b','s0','ifd+r-ifd','16a3fd79733e0e69a8d9cd74849c5db8','9891659b24e849471db784ec7b40dc59','9891659b24e849471db784ec7b40dc59','accepted',9.28595811150217276264e-01,1.12327930063364433976e+00,1.12327930063364433976e+00,0.0);
INSERT INTO "decisions" VALUES(1,'instruction','88ff6b0a7e71e584',NULL,'ifd+r-ifd','8e4e8fe438d59aedcbd56846ae11a52b','8e4e8fe438d59aedcbd56846ae11a52b',NULL,'no-candidate',NULL,NULL,NULL,0.0);
INSERT INTO "decisions" VALUES(1,'instruction','a380be64fdd6ae7f','s0','ifd+r-ifd','ad54d02605c7c9949e93c741cd27c052','4ea59ae2137072d68f0f6ed4b64f5efc','4ea59ae2137072d68f0f6ed4b64f5efc','accepted',9.94320499881224173499e-01,1.07314758811893873335e+00,1.07314758811893873335e+00,0.0);
INSERT INTO "decisions" VALUES(1,'instruction','c6455968d18bd912','s0','ifd+r-ifd','e880a78fd5919ce3c33f173a38d003c5','6e5c193591443217b165d9905c0ccd45','6e5c193591443217b165d9905c0ccd45','accepted',9.20063981364223404391e-01,1.05068705187654254373e+00,1.05068705187654254373e+00,0.0);
INSERT INTO "decisions" VALUES(1,'instruction','e73b86bce46daadc','s0','ifd+r-ifd','89b69cf97dc84b8e8fd253d0291079fe','a396c1fe4f302930febe54cbc91ec087','a396c1fe4f302930febe54cbc91ec087','accepted',0.954783359180914,1.04677512509423498165e+00,1.04677512509423498165e+00,0.0);
INSERT INTO "decisions" VALUES(1,'instruction','fc32fdfa52268e0e','s0','ifd+r-ifd','8b62b99d0c34c854e70f9c58456c91b2','8c0a99e94885fbb5a1077453a925c89a','8c0a99e94885fbb5a1077453a925c89a','accepted',8.4989056843562660326e-01,1.11519364993934400054e+00,1.11519364993934400054e+00,0.0);
INSERT INTO "decisions" VALUES(1,'response','0ac1a91ec4485912','s0','ifd+r-ifd','1b92261b4526977cda155fc66a3b062a','bcf308d6866f922bba6d47d9128ca003','bcf308d6866f922bba6d47d9128ca003','accepted',1.07573019070165898369e+00,1.05842557419987692846e+00,1.05842557419987692846e+00,0.0);
INSERT INTO "decisions" VALUES(1,'response','17b6b023357b8d6e','s0','ifd+r-ifd','69e37bbabbea14c0e0f64587e89f772e','69e37bbabbea14c0e0f64587e89f772e','07f3fd91626699d5613c5434257b8171','refused',1.09997698344375649526e+00,1.09997698344375649526e+00,1.10129635054596475285e+00,0.0);
INSERT INTO "decisions" VALUES(1,'response','5d2c1c3f480e9cc9','s0','ifd+r-ifd','3364383a82ecd68016d5dd9007d97931','81cf943b081b6f4a131d0b208afde604','81cf943b081b6f4a131d0b208afde604','accepted',1.64051017624338468792e+00,1.57521127360146251383e+00,1.57521127360146251383e+00,0.0);
INSERT INTO "decisions" VALUES(1,'response','77318010aae8f7d3','s0','ifd+r-ifd','6b5d104ae0ab3d213aaa13c60857f308','bead71c1a81ae11cd93a25acc83c983a','bead71c1a81ae11cd93a25acc83c983a','accepted',1.64672854828785175662e+00,1.63670055987110818485e+00,1.63670055987110818485e+00,0.0);
INSERT INTO "decisions" VALUES(1,'response','868bc037f121549b','s0','ifd+r-ifd','9891659b24e849471db784ec7b40dc59','0ddbaec9ba54630df71de36b0d0b91ab','0ddbaec9ba54630df71de36b0d0b91ab','accepted',1.75243560342844362232e+00,1.70224646496878273538e+00,1.70224646496878273538e+00,0.0);
INSERT INTO "decisions" VALUES(1,'response','88ff6b0a7e71e584',NULL,'ifd+r-ifd','8e4e8fe438d59aedcbd56846ae11a52b','8e4e8fe438d59aedcbd56846ae11a52b',NULL,'no-candidate',NULL,NULL,NULL,0.0);
INSERT INTO "decisions" VALUES(1,'response','a380be64fdd6ae7f','s0','ifd+r-ifd','4ea59ae2137072d68f0f6ed4b64f5efc','4ea59ae2137072d68f0f6ed4b64f5efc','9b6fb2c81876e469e45325b49d4b4bc2','refused',1.56789109293193251737e+00,1.56789109293193251737e+00,1.58319812302848905716e+00,0.0);
INSERT INTO "decisions" VALUES(1,'response','c6455968d18bd912','s0','ifd+r-ifd','6e5c193591443217b165d9905c0ccd45','6e5c193591443217b165d9905c0ccd45','9e103bb6803b8cbadc87001d0ca22f04','refused',1.58912389996075620324e+00,1.58912389996075620324e+00,1.61424693307678834841e+00,0.0);
INSERT INTO "decisions" VALUES(1,'response','e73b86bce46daadc','s0','ifd+r-ifd','a396c1fe4f302930febe54cbc91ec087','e41c05ae2b844593c5c1a122104434a6','e41c05ae2b844593c5c1a122104434a6','accepted',1.59838441371538753088e+00,1.58154332057988411541e+00,1.58154332057988411541e+00,0.0);
INSERT INTO "decisions" VALUES(1,'response','fc32fdfa52268e0e','s0','ifd+r-ifd','8c0a99e94885fbb5a1077453a925c89a','079612f89de8374666aac26939570483','079612f89de8374666aac26939570483','accepted',1.69953391669494924265e+00,1.67681918395402695942e+00,1.67681918395402695942e+00,0.0);
INSERT INTO "decisions" VALUES(2,'instruction','0ac1a91ec4485912','s1','ifd+r-ifd','bcf308d6866f922bba6d47d9128ca003','bcf308d6866f922bba6d47d9128ca003','d6f7ed3353f90df6c42996e089e9d7b7','refused',1.10592977441504869418e+00,1.10592977441504869418e+00,1.09852105651064180236e+00,0.0);
INSERT INTO "decisions" VALUES(2,'instruction','17b6b023357b8d6e','s1','ifd+r-ifd','69e37bbabbea14c0e0f64587e89f772e','3054aad92fca5dc9fdcffd9fa2525e22','3054aad92fca5dc9fdcffd9fa2525e22','accepted',1.06016548913700048295e+00,1.06566224295430145296e+00,1.06566224295430145296e+00,0.0);
INSERT INTO "decisions" VALUES(2,'instruction','5d2c1c3f480e9cc9','s1','ifd+r-ifd','81cf943b081b6f4a131d0b208afde604','6d29c302bc0dacd46a61c5b58ff3e5b1','6d29c302bc0dacd46a61c5b58ff3e5b1','accepted',1.06683656358931600038e+00,1.10526567432103894894e+00,1.10526567432103894894e+00,0.0);
INSERT INTO "decisions" VALUES(2,'instruction','77318010aae8f7d3','s1','ifd+r-ifd','bead71c1a81ae11cd93a25acc83c983a','bead71c1a81ae11cd93a25acc83c983a','a2f9c32b87cbed190ba9c10fb15df896','refused',1.06075829454566750165e+00,1.06075829454566750165e+00,1.02924587404984801963e+00,0.0);
INSERT INTO "decisions" VALUES(2,'instruction','868bc037f121549b','s1','ifd+r-ifd','0ddbaec9ba54630df71de36b0d0b91ab','746377e8ef6c3920a2e5f3e89fddc079','746377e8ef6c3920a2e5f3e89fddc079','accepted',1.11167541686782689325e+00,1.13673003884874690427e+00,1.13673003884874690427e+00,0.0);
INSERT INTO "decisions" VALUES(2,'instruction','88ff6b0a7e71e584',NULL,'ifd+r-ifd','8e4e8fe438d59aedcbd56846ae11a52b','8e4e8fe438d59aedcbd56846ae11a52b',NULL,'no-candidate',NULL,NULL,NULL,0.0);
INSERT INTO "decisions" VALUES(2,'instruction','a380be64fdd6ae7f','s1','ifd+r-ifd','4ea59ae2137072d68f0f6ed4b64f5efc','e4e1b9ea1513ec8c02c4328d231b6ba0','e4e1b9ea1513ec8c02c4328d231b6ba0','accepted',1.07314758811893873335e+00,1.07983390629210651567e+00,1.07983390629210651567e+00,0.0);
INSERT INTO "decisions" VALUES(2,'instruction','c6455968d18bd912','s1','ifd+r-ifd','6e5c193591443217b165d9905c0ccd45','2c98ebf9e7ca55f1aa1c2cf70add2efb','2c98ebf9e7ca55f1aa1c2cf70add2efb','accepted',1.05068705187654254373e+00,1.05287268611358575398e+00,1.05287268611358575398e+00,0.0);
INSERT INTO "decisions" VALUES(2,'instruction','e73b86bce46daadc','s1','ifd+r-ifd','e41c05ae2b844593c5c1a122104434a6','e84644eb4b50a07ab0e99e8bf1a3a53c','e84644eb4b50a07ab0e99e8bf1a3a53c','accepted',1.04541968014226438477e+00,1.08093787360195858759e+00,1.08093787360195858759e+00,0.0);
INSERT INTO "decisions" VALUES(2,'instruction','fc32fdfa52268e0e','s1','ifd+r-ifd','079612f89de8374666aac26939570483','3eb4a3240f63d1c4182db8928adcb5d9','3eb4a3240f63d1c4182db8928adcb5d9','accepted',1.08008602903836226083e+00,1.120952220862280857e+00,1.120952220862280857e+00,0.0);
INSERT INTO "decisions" VALUES(2,'response','0ac1a91ec4485912','s1','ifd+r-ifd','bcf308d6866f922bba6d47d9128ca003','8f8b615e67c9742442547459249b150b','8f8b615e67c9742442547459249b150b','accepted',1.05842557419987692846e+00,1.05604314291568801564e+00,1.05604314291568801564e+00,0.0);
INSERT INTO "decisions" VALUES(2,'response','17b6b023357b8d6e','s1','ifd+r-ifd','3054aad92fca5dc9fdcffd9fa2525e22','f6c7b0277f39d8b46c5a90e431327145','f6c7b0277f39d8b46c5a90e431327145','accepted',1.85966910080785519099e+00,1.78278723227369662041e+00,1.78278723227369662041e+00,0.0);
INSERT INTO "decisions" VALUES(2,'response','5d2c1c3f480e9cc9','s1','ifd+r-ifd','6d29c302bc0dacd46a61c5b58ff3e5b1','d7eb8e2f466503ec07d53b6e898366e2','d7eb8e2f466503ec07d53b6e898366e2','accepted',1.70281393389730406617e+00,1.58763481173566955995e+00,1.58763481173566955995e+00,0.0);
INSERT INTO "decisions" VALUES(2,'response','77318010aae8f7d3','s1','ifd+r-ifd','bead71c1a81ae11cd93a25acc83c983a','bead71c1a81ae11cd93a25acc83c983a','4e29e51949a380f424adc4000339fa2f','refused',1.63670055987110818485e+00,1.63670055987110818485e+00,1.64448810974298553766e+00,0.0);
INSERT INTO "decisions" VALUES(2,'response','868bc037f121549b','s1','ifd+r-ifd','746377e8ef6c3920a2e5f3e89fddc079','f0de373e7ac4525919191ed593af4536','f0de373e7ac4525919191ed593af4536','accepted',1.862453390439239298e+00,1.75789974214947508635e+00,1.75789974214947508635e+00,0.0);
INSERT INTO "decisions" VALUES(2,'response','88ff6b0a7e71e584',NULL,'ifd+r-ifd','8e4e8fe438d59aedcbd56846ae11a52b','8e4e8fe438d59aedcbd56846ae11a52b',NULL,'no-candidate',NULL,NULL,NULL,0.0);
INSERT INTO "decisions" VALUES(2,'response','a380be64fdd6ae7f','s1','ifd+r-ifd','e4e1b9ea1513ec8c02c4328d231b6ba0','3fab7625980361cb322a64d1a9e5ced5','3fab7625980361cb322a64d1a9e5ced5','accepted',1.64754789685205182969e+00,1.61648029889740185716e+00,1.61648029889740185716e+00,0.0);
INSERT INTO "decisions" VALUES(2,'response','c6455968d18bd912','s1','ifd+r-ifd','2c98ebf9e7ca55f1aa1c2cf70add2efb','c22cb93121ea3a03e7954e8f2c5ebdc7','c22cb93121ea3a03e7954e8f2c5ebdc7','accepted',1.67408920097462465825e+00,1.65258079206340480205e+00,1.65258079206340480205e+00,0.0);
INSERT INTO "decisions" VALUES(2,'response','e73b86bce46daadc','s1','ifd+r-ifd','e84644eb4b50a07ab0e99e8bf1a3a53c','91266e1cbdfbe15a8d5cf0330ca0b442','91266e1cbdfbe15a8d5cf0330ca0b442','accepted',1.70323117260174083931e+00,1.63286607603102407182e+00,1.63286607603102407182e+00,0.0);
INSERT INTO "decisions" VALUES(2,'response','fc32fdfa52268e0e','s1','ifd+r-ifd','3eb4a3240f63d1c4182db8928adcb5d9','45dfaf984c639ff577b43701ae22ea64','45dfaf984c639ff577b43701ae22ea64','accepted',1.78154180461575184502e+00,1.70561141868656829245e+00,1.70561141868656829245e+00,0.0);
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
INSERT INTO "evaluations" VALUES(0,'s0','nll',5.89339447021484375e+00,2,5.84833516120910701374e+00,5.93845377922058048625e+00);
INSERT INTO "evaluations" VALUES(0,'s0','response_tokens',8.0,2,8.0,8.0);
INSERT INTO "evaluations" VALUES(1,'s1','nll',5.89339447021484375e+00,2,5.84833516120910701374e+00,5.93845377922058048625e+00);
INSERT INTO "evaluations" VALUES(1,'s1','response_tokens',8.0,2,8.0,8.0);
INSERT INTO "evaluations" VALUES(2,'s2','nll',5.73076157910483274804e+00,2,5.63987068040030337101e+00,5.82165247780936212507e+00);
INSERT INTO "evaluations" VALUES(2,'s2','response_tokens',8.0,2,8.0,8.0);
CREATE TABLE rounds (
            round INTEGER PRIMARY KEY,
            student_id TEXT REFERENCES students(id),
            started_at TEXT NOT NULL,
            finished_at TEXT,
            status TEXT NOT NULL CHECK (status IN ('running', 'finished')),
            stop_reason TEXT,
            metrics TEXT NOT NULL
        ) STRICT;
INSERT INTO "rounds" VALUES(0,'s0','2026-11-21T08:57:51+00:00','2026-11-21T08:57:51+00:00','finished',NULL,'{"seconds":{"evaluate":0.355732823998551}}');
INSERT INTO "rounds" VALUES(1,'s1','2026-11-21T08:57:51+00:00','2026-11-21T08:57:53+00:00','finished',NULL,'{"seconds":{"reflect":0.0131398500016076,"select":0.693793325997831,"refinetune":0.66849467800057,"evaluate":0.34817700900021}}');
INSERT INTO "rounds" VALUES(2,'s2','2026-11-21T08:57:53+00:00','2026-11-21T08:57:55+00:00','finished','rounds','{"seconds":{"reflect":0.0152408810026827,"select":0.739385698998376,"refinetune":0.66445581500011,"evaluate":0.332256328001677}}');
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
INSERT INTO "runs" VALUES('finished','2026-11-21T08:57:51+00:00','{"name": "finished", "rounds": 2, "seed": 0, "data": {"path": "/world/data.json", "hf": null, "split": "train", "format": "auto", "limit": null, "holdout": 2, "skip_invalid": false}, "teacher": {"engine": "recorded", "model": null, "revision": null, "base_url": null, "api_key_env": null, "path": "/world/teacher.jsonl", "prompts": null, "candidates": 1, "temperature": 0.0, "top_p": 1.0, "max_tokens": 2048, "concurrency": null, "timeout": 600.0, "retries": 2, "structured": true, "price_in": null, "price_out": null, "budget_tokens": null, "budget_usd": null, "patience": null, "cache": "on", "dtype": "auto", "quantization": null, "tensor_parallel_size": null, "gpu_memory_utilization": null, "max_model_len": null}, "student": {"model": "/world/student", "revision": null, "template": "plain", "max_length": 256, "dtype": "float32", "device": "auto", "batch_tokens": 2048, "threads": 2}, "selection": {"policy": "ifd+r-ifd", "margin": 0.0, "max_ifd": 1000000.0, "ifd_cap": null, "max_r_ifd": 1000000.0, "keep": "improved", "top_fraction": 1.0, "random_rate": 0.5}, "refinetune": {"r": 4, "alpha": 8, "dropout": 0.0, "target_modules": "all-linear", "lr": 0.01, "epochs": 1, "tokens": null, "batch_tokens": 512, "warmup": 0.03, "start_from": "base", "gradient_checkpointing": false, "load_in_4bit": false, "anchor": 0.0}, "evaluate": {"every": 1, "checker": null, "max_tokens": 8}, "stop": {"patience": null, "min_acceptance": 0.0, "max_drop": null}}','d60306b8a08426ab806ffbd4b06f2462','f89ec5be5669d7d964c19c8e1b9954a3','{"reflectune": "0.1.0", "torch": "2.13.0+cpu", "transformers": "5.19.0", "peft": "0.21.2", "langgraph": "1.2.22", "sqlite-utils": "4.2.1", "graph": "060840373bbcbe29ea40e37f7850a9aa"}','finished',0);
CREATE TABLE samples (
            id TEXT PRIMARY KEY,
            position INTEGER NOT NULL UNIQUE,
            source_hash TEXT NOT NULL,
            split TEXT NOT NULL CHECK (split IN ('train', 'holdout')),
            meta TEXT NOT NULL
        ) STRICT;
INSERT INTO "samples" VALUES('fc32fdfa52268e0e',0,'2fa5b1c52c9b1db82747c1d9130f56ee','train','{}');
INSERT INTO "samples" VALUES('6da00855ddfead12',1,'82d6a58209d77cb1a569c6cdd08140e9','holdout','{}');
INSERT INTO "samples" VALUES('5d2c1c3f480e9cc9',2,'c0543c98d13fe9ce2233382fed4d3e5a','train','{}');
INSERT INTO "samples" VALUES('e73b86bce46daadc',3,'a01106c32a7c7907fb6ca1ff2b06e0c7','train','{}');
INSERT INTO "samples" VALUES('8876d1af47ffdc16',4,'6e34633d389524da8a4effff534d6b68','holdout','{}');
INSERT INTO "samples" VALUES('868bc037f121549b',5,'5fde59676a224fd883402728ee719292','train','{}');
INSERT INTO "samples" VALUES('17b6b023357b8d6e',6,'271928b43dda2742852c099aad882b34','train','{}');
INSERT INTO "samples" VALUES('0ac1a91ec4485912',7,'c392e5d02efde02d8e749e2f2b12146f','train','{}');
INSERT INTO "samples" VALUES('77318010aae8f7d3',8,'f57e4774d3d334b56b7c013de8501e2b','train','{}');
INSERT INTO "samples" VALUES('88ff6b0a7e71e584',9,'2404ac06286e56d7aa62ea0a7bf3e821','train','{}');
INSERT INTO "samples" VALUES('a380be64fdd6ae7f',10,'4ceeb84645810215ca41541d146e50ee','train','{}');
INSERT INTO "samples" VALUES('c6455968d18bd912',11,'989c51b5b611d2ce34927a53c5802825','train','{}');
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
INSERT INTO "scores" VALUES('079612f89de8374666aac26939570483','s0','instruction_alone',-1.12499273300170898437e+02,20,'ok',0);
INSERT INTO "scores" VALUES('079612f89de8374666aac26939570483','s0','instruction_given_response',-1.22837246417999267577e+02,20,'ok',0);
INSERT INTO "scores" VALUES('079612f89de8374666aac26939570483','s0','response_alone',-2.5652323389053344727e+02,43,'ok',0);
INSERT INTO "scores" VALUES('079612f89de8374666aac26939570483','s0','response_given_instruction',-2.59835983753204345712e+02,43,'ok',0);
INSERT INTO "scores" VALUES('079612f89de8374666aac26939570483','s1','response_alone',-2.5652323389053344727e+02,43,'ok',0);
INSERT INTO "scores" VALUES('079612f89de8374666aac26939570483','s1','response_given_instruction',-2.59835983753204345712e+02,43,'ok',0);
INSERT INTO "scores" VALUES('07f3fd91626699d5613c5434257b8171','s0','instruction_alone',-2.27321782588958740231e+02,38,'ok',0);
INSERT INTO "scores" VALUES('07f3fd91626699d5613c5434257b8171','s0','instruction_given_response',-2.30988326072692871102e+02,38,'ok',0);
INSERT INTO "scores" VALUES('0ddbaec9ba54630df71de36b0d0b91ab','s0','instruction_alone',-1.11577991485595703121e+02,20,'ok',0);
INSERT INTO "scores" VALUES('0ddbaec9ba54630df71de36b0d0b91ab','s0','instruction_given_response',-1.22216968059539794917e+02,20,'ok',0);
INSERT INTO "scores" VALUES('0ddbaec9ba54630df71de36b0d0b91ab','s0','response_alone',-2.54730444431304931646e+02,43,'ok',0);
INSERT INTO "scores" VALUES('0ddbaec9ba54630df71de36b0d0b91ab','s0','response_given_instruction',-2.59282779693603515625e+02,43,'ok',0);
INSERT INTO "scores" VALUES('0ddbaec9ba54630df71de36b0d0b91ab','s1','response_alone',-2.54730444431304931646e+02,43,'ok',0);
INSERT INTO "scores" VALUES('0ddbaec9ba54630df71de36b0d0b91ab','s1','response_given_instruction',-2.59282779693603515625e+02,43,'ok',0);
INSERT INTO "scores" VALUES('16a3fd79733e0e69a8d9cd74849c5db8','s0','response_alone',-77.1395411491394,13,'ok',0);
INSERT INTO "scores" VALUES('16a3fd79733e0e69a8d9cd74849c5db8','s0','response_given_instruction',-7.61764788627624511718e+01,13,'ok',0);
INSERT INTO "scores" VALUES('1b92261b4526977cda155fc66a3b062a','s0','instruction_alone',-1.13079006195068359379e+02,19,'ok',0);
INSERT INTO "scores" VALUES('1b92261b4526977cda155fc66a3b062a','s0','instruction_given_response',-1.14466000080108642577e+02,19,'ok',0);
INSERT INTO "scores" VALUES('1b92261b4526977cda155fc66a3b062a','s0','response_alone',-7.41017141342163085946e+01,13,'ok',0);
INSERT INTO "scores" VALUES('1b92261b4526977cda155fc66a3b062a','s0','response_given_instruction',-7.77867584228515625017e+01,13,'ok',0);
INSERT INTO "scores" VALUES('2c98ebf9e7ca55f1aa1c2cf70add2efb','s1','instruction_alone',-1.16920702457427978511e+02,21,'ok',0);
INSERT INTO "scores" VALUES('2c98ebf9e7ca55f1aa1c2cf70add2efb','s1','instruction_given_response',-1.27741356849670410159e+02,21,'ok',0);
INSERT INTO "scores" VALUES('2c98ebf9e7ca55f1aa1c2cf70add2efb','s1','response_alone',-1.31302899837493896489e+02,22,'ok',0);
INSERT INTO "scores" VALUES('2c98ebf9e7ca55f1aa1c2cf70add2efb','s1','response_given_instruction',-1.32436390876770019534e+02,22,'ok',0);
INSERT INTO "scores" VALUES('3054aad92fca5dc9fdcffd9fa2525e22','s1','instruction_alone',-1.08878960609436035154e+02,20,'ok',0);
INSERT INTO "scores" VALUES('3054aad92fca5dc9fdcffd9fa2525e22','s1','instruction_given_response',-1.21286931991577148434e+02,20,'ok',0);
INSERT INTO "scores" VALUES('3054aad92fca5dc9fdcffd9fa2525e22','s1','response_alone',-1.23721354484558105463e+02,21,'ok',0);
INSERT INTO "scores" VALUES('3054aad92fca5dc9fdcffd9fa2525e22','s1','response_given_instruction',-1.25056879520416259761e+02,21,'ok',0);
INSERT INTO "scores" VALUES('3364383a82ecd68016d5dd9007d97931','s0','instruction_alone',-1.11958491325378417969e+02,20,'ok',0);
INSERT INTO "scores" VALUES('3364383a82ecd68016d5dd9007d97931','s0','instruction_given_response',-1.21858636856079101558e+02,20,'ok',0);
INSERT INTO "scores" VALUES('3364383a82ecd68016d5dd9007d97931','s0','response_alone',-1.23840419292449951168e+02,21,'ok',0);
INSERT INTO "scores" VALUES('3364383a82ecd68016d5dd9007d97931','s0','response_given_instruction',-1.25575273513793945307e+02,21,'ok',0);
INSERT INTO "scores" VALUES('3eb4a3240f63d1c4182db8928adcb5d9','s1','instruction_alone',-1.1152607107162475586e+02,20,'ok',0);
INSERT INTO "scores" VALUES('3eb4a3240f63d1c4182db8928adcb5d9','s1','instruction_given_response',-1.23075654506683349607e+02,20,'ok',0);
INSERT INTO "scores" VALUES('3eb4a3240f63d1c4182db8928adcb5d9','s1','response_alone',-1.2366159439086914062e+02,21,'ok',0);
INSERT INTO "scores" VALUES('3eb4a3240f63d1c4182db8928adcb5d9','s1','response_given_instruction',-1.2605934333801269531e+02,21,'ok',0);
INSERT INTO "scores" VALUES('3fab7625980361cb322a64d1a9e5ced5','s1','instruction_alone',-1.17637783527374267583e+02,21,'ok',0);
INSERT INTO "scores" VALUES('3fab7625980361cb322a64d1a9e5ced5','s1','instruction_given_response',-1.27723057270050048832e+02,21,'ok',0);
INSERT INTO "scores" VALUES('3fab7625980361cb322a64d1a9e5ced5','s1','response_alone',-2.61086587905883789058e+02,44,'ok',0);
INSERT INTO "scores" VALUES('3fab7625980361cb322a64d1a9e5ced5','s1','response_given_instruction',-2.65420060634613037115e+02,44,'ok',0);
INSERT INTO "scores" VALUES('3fbcd7d95cf6c71fffa20e8b1124f015','s0','response_alone',-5.92538018226623535138e+01,10,'ok',0);
INSERT INTO "scores" VALUES('3fbcd7d95cf6c71fffa20e8b1124f015','s0','response_given_instruction',-5.96709055900573730451e+01,10,'ok',0);
INSERT INTO "scores" VALUES('45dfaf984c639ff577b43701ae22ea64','s1','instruction_alone',-1.1152607107162475586e+02,20,'ok',0);
INSERT INTO "scores" VALUES('45dfaf984c639ff577b43701ae22ea64','s1','instruction_given_response',-1.22204544067382812498e+02,20,'ok',0);
INSERT INTO "scores" VALUES('45dfaf984c639ff577b43701ae22ea64','s1','response_alone',-2.55787316799163818355e+02,43,'ok',0);
INSERT INTO "scores" VALUES('45dfaf984c639ff577b43701ae22ea64','s1','response_given_instruction',-2.60036072254180908205e+02,43,'ok',0);
INSERT INTO "scores" VALUES('4e29e51949a380f424adc4000339fa2f','s1','instruction_alone',-1.12039131164550781255e+02,20,'ok',0);
INSERT INTO "scores" VALUES('4e29e51949a380f424adc4000339fa2f','s1','instruction_given_response',-1.21987714290618896482e+02,20,'ok',0);
INSERT INTO "scores" VALUES('4ea59ae2137072d68f0f6ed4b64f5efc','s0','instruction_alone',-1.1873265361785888672e+02,21,'ok',0);
INSERT INTO "scores" VALUES('4ea59ae2137072d68f0f6ed4b64f5efc','s0','instruction_given_response',-1.28177014350891113277e+02,21,'ok',0);
INSERT INTO "scores" VALUES('4ea59ae2137072d68f0f6ed4b64f5efc','s0','response_alone',-1.29826172828674316409e+02,22,'ok',0);
INSERT INTO "scores" VALUES('4ea59ae2137072d68f0f6ed4b64f5efc','s0','response_given_instruction',-1.31379284858703613279e+02,22,'ok',0);
INSERT INTO "scores" VALUES('4ea59ae2137072d68f0f6ed4b64f5efc','s1','response_alone',-1.29826172828674316409e+02,22,'ok',0);
INSERT INTO "scores" VALUES('4ea59ae2137072d68f0f6ed4b64f5efc','s1','response_given_instruction',-1.31379284858703613279e+02,22,'ok',0);
INSERT INTO "scores" VALUES('65245323aebacc0c92ea57a0a905e214','s0','response_alone',-1.23012336730957031253e+02,21,'ok',0);
INSERT INTO "scores" VALUES('65245323aebacc0c92ea57a0a905e214','s0','response_given_instruction',-1.24840880393981933592e+02,21,'ok',0);
INSERT INTO "scores" VALUES('69e37bbabbea14c0e0f64587e89f772e','s0','instruction_alone',-2.27321782588958740231e+02,38,'ok',0);
INSERT INTO "scores" VALUES('69e37bbabbea14c0e0f64587e89f772e','s0','instruction_given_response',-2.30942774295806884776e+02,38,'ok',0);
INSERT INTO "scores" VALUES('69e37bbabbea14c0e0f64587e89f772e','s0','response_alone',-8.30412530899047851562e+01,14,'ok',0);
INSERT INTO "scores" VALUES('69e37bbabbea14c0e0f64587e89f772e','s0','response_given_instruction',-83.8592038154602,14,'ok',0);
INSERT INTO "scores" VALUES('69e37bbabbea14c0e0f64587e89f772e','s1','response_alone',-8.30412535667419433611e+01,14,'ok',0);
INSERT INTO "scores" VALUES('69e37bbabbea14c0e0f64587e89f772e','s1','response_given_instruction',-83.8592038154602,14,'ok',0);
INSERT INTO "scores" VALUES('6b5d104ae0ab3d213aaa13c60857f308','s0','instruction_alone',-1.12039131164550781255e+02,20,'ok',0);
INSERT INTO "scores" VALUES('6b5d104ae0ab3d213aaa13c60857f308','s0','instruction_given_response',-1.2201494359970092773e+02,20,'ok',0);
INSERT INTO "scores" VALUES('6b5d104ae0ab3d213aaa13c60857f308','s0','response_alone',-1.23758926391601562497e+02,21,'ok',0);
INSERT INTO "scores" VALUES('6b5d104ae0ab3d213aaa13c60857f308','s0','response_given_instruction',-1.24211621284484863281e+02,21,'ok',0);
INSERT INTO "scores" VALUES('6d29c302bc0dacd46a61c5b58ff3e5b1','s1','instruction_alone',-1.1136945867538452148e+02,20,'ok',0);
INSERT INTO "scores" VALUES('6d29c302bc0dacd46a61c5b58ff3e5b1','s1','instruction_given_response',-1.22015101432800292973e+02,20,'ok',0);
INSERT INTO "scores" VALUES('6d29c302bc0dacd46a61c5b58ff3e5b1','s1','response_alone',-1.24214456558227539064e+02,21,'ok',0);
INSERT INTO "scores" VALUES('6d29c302bc0dacd46a61c5b58ff3e5b1','s1','response_given_instruction',-1.26316256999969482425e+02,21,'ok',0);
INSERT INTO "scores" VALUES('6e5c193591443217b165d9905c0ccd45','s0','instruction_alone',-1.18052709579467773437e+02,21,'ok',0);
INSERT INTO "scores" VALUES('6e5c193591443217b165d9905c0ccd45','s0','instruction_given_response',-1.27779549598693847661e+02,21,'ok',0);
INSERT INTO "scores" VALUES('6e5c193591443217b165d9905c0ccd45','s0','response_alone',-1.30831465244293212893e+02,22,'ok',0);
INSERT INTO "scores" VALUES('6e5c193591443217b165d9905c0ccd45','s0','response_given_instruction',-1.31919239521026611329e+02,22,'ok',0);
INSERT INTO "scores" VALUES('6e5c193591443217b165d9905c0ccd45','s1','response_alone',-1.30831465244293212893e+02,22,'ok',0);
INSERT INTO "scores" VALUES('6e5c193591443217b165d9905c0ccd45','s1','response_given_instruction',-1.31919239521026611329e+02,22,'ok',0);
INSERT INTO "scores" VALUES('70f4a53a5f740dd99f7e83399aaed77a','s0','response_alone',-6.39890823364257812491e+01,11,'ok',0);
INSERT INTO "scores" VALUES('70f4a53a5f740dd99f7e83399aaed77a','s0','response_given_instruction',-6.24426550865173339826e+01,11,'ok',0);
INSERT INTO "scores" VALUES('746377e8ef6c3920a2e5f3e89fddc079','s1','instruction_alone',-1.10278288364410400387e+02,20,'ok',0);
INSERT INTO "scores" VALUES('746377e8ef6c3920a2e5f3e89fddc079','s1','instruction_given_response',-1.22716181278228759761e+02,20,'ok',0);
INSERT INTO "scores" VALUES('746377e8ef6c3920a2e5f3e89fddc079','s1','response_alone',-1.23778608798980712887e+02,21,'ok',0);
INSERT INTO "scores" VALUES('746377e8ef6c3920a2e5f3e89fddc079','s1','response_given_instruction',-1.26469879627227783198e+02,21,'ok',0);
INSERT INTO "scores" VALUES('81cf943b081b6f4a131d0b208afde604','s0','instruction_alone',-1.11958491325378417969e+02,20,'ok',0);
INSERT INTO "scores" VALUES('81cf943b081b6f4a131d0b208afde604','s0','instruction_given_response',-1.21046279430389404298e+02,20,'ok',0);
INSERT INTO "scores" VALUES('81cf943b081b6f4a131d0b208afde604','s0','response_alone',-2.56187800884246826178e+02,43,'ok',0);
INSERT INTO "scores" VALUES('81cf943b081b6f4a131d0b208afde604','s0','response_given_instruction',-2.5896980571746826172e+02,43,'ok',0);
INSERT INTO "scores" VALUES('81cf943b081b6f4a131d0b208afde604','s1','response_alone',-2.56187800884246826178e+02,43,'ok',0);
INSERT INTO "scores" VALUES('81cf943b081b6f4a131d0b208afde604','s1','response_given_instruction',-2.5896980571746826172e+02,43,'ok',0);
INSERT INTO "scores" VALUES('89b69cf97dc84b8e8fd253d0291079fe','s0','response_alone',-8.30076317787170410173e+01,14,'ok',0);
INSERT INTO "scores" VALUES('89b69cf97dc84b8e8fd253d0291079fe','s0','response_given_instruction',-82.3598403930664,14,'ok',0);
INSERT INTO "scores" VALUES('8b62b99d0c34c854e70f9c58456c91b2','s0','response_alone',-6.56692023277282714826e+01,11,'ok',0);
INSERT INTO "scores" VALUES('8b62b99d0c34c854e70f9c58456c91b2','s0','response_given_instruction',-6.38800778388977050789e+01,11,'ok',0);
INSERT INTO "scores" VALUES('8c0a99e94885fbb5a1077453a925c89a','s0','instruction_alone',-1.12499273300170898437e+02,20,'ok',0);
INSERT INTO "scores" VALUES('8c0a99e94885fbb5a1077453a925c89a','s0','instruction_given_response',-1.23106354236602783197e+02,20,'ok',0);
INSERT INTO "scores" VALUES('8c0a99e94885fbb5a1077453a925c89a','s0','response_alone',-1.23372281551361083983e+02,21,'ok',0);
INSERT INTO "scores" VALUES('8c0a99e94885fbb5a1077453a925c89a','s0','response_given_instruction',-1.2566187095642089844e+02,21,'ok',0);
INSERT INTO "scores" VALUES('8e4e8fe438d59aedcbd56846ae11a52b','s0','instruction_alone',-2.27243831634521484372e+02,38,'ok',0);
INSERT INTO "scores" VALUES('8e4e8fe438d59aedcbd56846ae11a52b','s0','instruction_given_response',-2.3030374860763549805e+02,38,'ok',0);
INSERT INTO "scores" VALUES('8e4e8fe438d59aedcbd56846ae11a52b','s0','response_alone',-8.29713521003723144565e+01,14,'ok',0);
INSERT INTO "scores" VALUES('8e4e8fe438d59aedcbd56846ae11a52b','s0','response_given_instruction',-82.4305329322815,14,'ok',0);
INSERT INTO "scores" VALUES('8e4e8fe438d59aedcbd56846ae11a52b','s1','instruction_alone',-2.27243831634521484372e+02,38,'ok',0);
INSERT INTO "scores" VALUES('8e4e8fe438d59aedcbd56846ae11a52b','s1','instruction_given_response',-2.3030374860763549805e+02,38,'ok',0);
INSERT INTO "scores" VALUES('8e4e8fe438d59aedcbd56846ae11a52b','s1','response_alone',-8.29713521003723144565e+01,14,'ok',0);
INSERT INTO "scores" VALUES('8e4e8fe438d59aedcbd56846ae11a52b','s1','response_given_instruction',-82.4305329322815,14,'ok',0);
INSERT INTO "scores" VALUES('8f8b615e67c9742442547459249b150b','s1','instruction_alone',-1.13079006195068359379e+02,19,'ok',0);
INSERT INTO "scores" VALUES('8f8b615e67c9742442547459249b150b','s1','instruction_given_response',-1.14115057945251464845e+02,19,'ok',0);
INSERT INTO "scores" VALUES('8f8b615e67c9742442547459249b150b','s1','response_alone',-2.54415495872497558586e+02,43,'ok',0);
INSERT INTO "scores" VALUES('8f8b615e67c9742442547459249b150b','s1','response_given_instruction',-2.58451640605926513671e+02,43,'ok',0);
INSERT INTO "scores" VALUES('91266e1cbdfbe15a8d5cf0330ca0b442','s1','instruction_alone',-1.11293112754821777344e+02,20,'ok',0);
INSERT INTO "scores" VALUES('91266e1cbdfbe15a8d5cf0330ca0b442','s1','instruction_given_response',-1.21099848747253417973e+02,20,'ok',0);
INSERT INTO "scores" VALUES('91266e1cbdfbe15a8d5cf0330ca0b442','s1','response_alone',-2.55772206783294677725e+02,43,'ok',0);
INSERT INTO "scores" VALUES('91266e1cbdfbe15a8d5cf0330ca0b442','s1','response_given_instruction',-2.58774066448211669932e+02,43,'ok',0);
INSERT INTO "scores" VALUES('9891659b24e849471db784ec7b40dc59','s0','instruction_alone',-1.11577991485595703121e+02,20,'ok',0);
INSERT INTO "scores" VALUES('9891659b24e849471db784ec7b40dc59','s0','instruction_given_response',-1.22798123359680175779e+02,20,'ok',0);
INSERT INTO "scores" VALUES('9891659b24e849471db784ec7b40dc59','s0','response_alone',-1.23629614830017089846e+02,21,'ok',0);
INSERT INTO "scores" VALUES('9891659b24e849471db784ec7b40dc59','s0','response_given_instruction',-1.26070914268493652345e+02,21,'ok',0);
INSERT INTO "scores" VALUES('9b6fb2c81876e469e45325b49d4b4bc2','s0','instruction_alone',-1.1873265361785888672e+02,21,'ok',0);
INSERT INTO "scores" VALUES('9b6fb2c81876e469e45325b49d4b4bc2','s0','instruction_given_response',-1.28381039142608642576e+02,21,'ok',0);
INSERT INTO "scores" VALUES('9e103bb6803b8cbadc87001d0ca22f04','s0','instruction_alone',-1.18052709579467773437e+02,21,'ok',0);
INSERT INTO "scores" VALUES('9e103bb6803b8cbadc87001d0ca22f04','s0','instruction_given_response',-1.28108949184417724614e+02,21,'ok',0);
INSERT INTO "scores" VALUES('a2f9c32b87cbed190ba9c10fb15df896','s1','response_alone',-1.24036706924438476561e+02,21,'ok',0);
INSERT INTO "scores" VALUES('a2f9c32b87cbed190ba9c10fb15df896','s1','response_given_instruction',-1.2464206075668334961e+02,21,'ok',0);
INSERT INTO "scores" VALUES('a396c1fe4f302930febe54cbc91ec087','s0','instruction_alone',-1.1258259868621826172e+02,20,'ok',0);
INSERT INTO "scores" VALUES('a396c1fe4f302930febe54cbc91ec087','s0','instruction_given_response',-1.21962466239929199216e+02,20,'ok',0);
INSERT INTO "scores" VALUES('a396c1fe4f302930febe54cbc91ec087','s0','response_alone',-1.23827991962432861329e+02,21,'ok',0);
INSERT INTO "scores" VALUES('a396c1fe4f302930febe54cbc91ec087','s0','response_given_instruction',-1.2478798866271972656e+02,21,'ok',0);
INSERT INTO "scores" VALUES('ad54d02605c7c9949e93c741cd27c052','s0','response_alone',-6.67484230995178222638e+01,11,'ok',0);
INSERT INTO "scores" VALUES('ad54d02605c7c9949e93c741cd27c052','s0','response_given_instruction',-66.6857705116272,11,'ok',0);
INSERT INTO "scores" VALUES('bcf308d6866f922bba6d47d9128ca003','s0','instruction_alone',-1.13079006195068359379e+02,19,'ok',0);
INSERT INTO "scores" VALUES('bcf308d6866f922bba6d47d9128ca003','s0','instruction_given_response',-1.14157873630523681645e+02,19,'ok',0);
INSERT INTO "scores" VALUES('bcf308d6866f922bba6d47d9128ca003','s0','response_alone',-255.171284198761,43,'ok',0);
INSERT INTO "scores" VALUES('bcf308d6866f922bba6d47d9128ca003','s0','response_given_instruction',-2.59500799655914306642e+02,43,'ok',0);
INSERT INTO "scores" VALUES('bcf308d6866f922bba6d47d9128ca003','s1','instruction_alone',-1.13079006195068359379e+02,19,'ok',0);
INSERT INTO "scores" VALUES('bcf308d6866f922bba6d47d9128ca003','s1','instruction_given_response',-1.14157873630523681645e+02,19,'ok',0);
INSERT INTO "scores" VALUES('bcf308d6866f922bba6d47d9128ca003','s1','response_alone',-255.171284198761,43,'ok',0);
INSERT INTO "scores" VALUES('bcf308d6866f922bba6d47d9128ca003','s1','response_given_instruction',-2.59500799655914306642e+02,43,'ok',0);
INSERT INTO "scores" VALUES('bead71c1a81ae11cd93a25acc83c983a','s0','instruction_alone',-1.12039131164550781255e+02,20,'ok',0);
INSERT INTO "scores" VALUES('bead71c1a81ae11cd93a25acc83c983a','s0','instruction_given_response',-1.21892778396606445308e+02,20,'ok',0);
INSERT INTO "scores" VALUES('bead71c1a81ae11cd93a25acc83c983a','s0','response_alone',-2.55618644714355468749e+02,43,'ok',0);
INSERT INTO "scores" VALUES('bead71c1a81ae11cd93a25acc83c983a','s0','response_given_instruction',-2.58154957771301269537e+02,43,'ok',0);
INSERT INTO "scores" VALUES('bead71c1a81ae11cd93a25acc83c983a','s1','instruction_alone',-1.12039131164550781255e+02,20,'ok',0);
INSERT INTO "scores" VALUES('bead71c1a81ae11cd93a25acc83c983a','s1','instruction_given_response',-1.21892778396606445308e+02,20,'ok',0);
INSERT INTO "scores" VALUES('bead71c1a81ae11cd93a25acc83c983a','s1','response_alone',-2.55618644714355468749e+02,43,'ok',0);
INSERT INTO "scores" VALUES('bead71c1a81ae11cd93a25acc83c983a','s1','response_given_instruction',-2.58154957771301269537e+02,43,'ok',0);
INSERT INTO "scores" VALUES('c22cb93121ea3a03e7954e8f2c5ebdc7','s1','instruction_alone',-1.16920702457427978511e+02,21,'ok',0);
INSERT INTO "scores" VALUES('c22cb93121ea3a03e7954e8f2c5ebdc7','s1','instruction_given_response',-1.27469804286956787107e+02,21,'ok',0);
INSERT INTO "scores" VALUES('c22cb93121ea3a03e7954e8f2c5ebdc7','s1','response_alone',-2.58971060276031494139e+02,44,'ok',0);
INSERT INTO "scores" VALUES('c22cb93121ea3a03e7954e8f2c5ebdc7','s1','response_given_instruction',-264.504403591156,44,'ok',0);
INSERT INTO "scores" VALUES('d6f7ed3353f90df6c42996e089e9d7b7','s1','response_alone',-1.2317731142044067383e+02,21,'ok',0);
INSERT INTO "scores" VALUES('d6f7ed3353f90df6c42996e089e9d7b7','s1','response_given_instruction',-1.25150571823120117188e+02,21,'ok',0);
INSERT INTO "scores" VALUES('d7eb8e2f466503ec07d53b6e898366e2','s1','instruction_alone',-1.1136945867538452148e+02,20,'ok',0);
INSERT INTO "scores" VALUES('d7eb8e2f466503ec07d53b6e898366e2','s1','instruction_given_response',-1.20614366054534912105e+02,20,'ok',0);
INSERT INTO "scores" VALUES('d7eb8e2f466503ec07d53b6e898366e2','s1','response_alone',-2.55650030612945556641e+02,43,'ok',0);
INSERT INTO "scores" VALUES('d7eb8e2f466503ec07d53b6e898366e2','s1','response_given_instruction',-2.59576766490936279292e+02,43,'ok',0);
INSERT INTO "scores" VALUES('e41c05ae2b844593c5c1a122104434a6','s0','instruction_alone',-1.1258259868621826172e+02,20,'ok',0);
INSERT INTO "scores" VALUES('e41c05ae2b844593c5c1a122104434a6','s0','instruction_given_response',-1.2175062179565429687e+02,20,'ok',0);
INSERT INTO "scores" VALUES('e41c05ae2b844593c5c1a122104434a6','s0','response_alone',-2.5650924396514892577e+02,43,'ok',0);
INSERT INTO "scores" VALUES('e41c05ae2b844593c5c1a122104434a6','s0','response_given_instruction',-2.58419235706329345706e+02,43,'ok',0);
INSERT INTO "scores" VALUES('e41c05ae2b844593c5c1a122104434a6','s1','response_alone',-2.5650924396514892577e+02,43,'ok',0);
INSERT INTO "scores" VALUES('e41c05ae2b844593c5c1a122104434a6','s1','response_given_instruction',-2.58419235706329345706e+02,43,'ok',0);
INSERT INTO "scores" VALUES('e4e1b9ea1513ec8c02c4328d231b6ba0','s1','instruction_alone',-1.17637783527374267583e+02,21,'ok',0);
INSERT INTO "scores" VALUES('e4e1b9ea1513ec8c02c4328d231b6ba0','s1','instruction_given_response',-1.28122832775115966795e+02,21,'ok',0);
INSERT INTO "scores" VALUES('e4e1b9ea1513ec8c02c4328d231b6ba0','s1','response_alone',-130.184308052063,22,'ok',0);
INSERT INTO "scores" VALUES('e4e1b9ea1513ec8c02c4328d231b6ba0','s1','response_given_instruction',-1.31874067306518554692e+02,22,'ok',0);
INSERT INTO "scores" VALUES('e84644eb4b50a07ab0e99e8bf1a3a53c','s1','instruction_alone',-1.11293112754821777344e+02,20,'ok',0);
INSERT INTO "scores" VALUES('e84644eb4b50a07ab0e99e8bf1a3a53c','s1','instruction_given_response',-1.21943655490875244138e+02,20,'ok',0);
INSERT INTO "scores" VALUES('e84644eb4b50a07ab0e99e8bf1a3a53c','s1','response_alone',-1.23652861118316650392e+02,21,'ok',0);
INSERT INTO "scores" VALUES('e84644eb4b50a07ab0e99e8bf1a3a53c','s1','response_given_instruction',-1.25287271499633789061e+02,21,'ok',0);
INSERT INTO "scores" VALUES('e880a78fd5919ce3c33f173a38d003c5','s0','response_alone',-9.05303163528442382795e+01,15,'ok',0);
INSERT INTO "scores" VALUES('e880a78fd5919ce3c33f173a38d003c5','s0','response_given_instruction',-8.92806353569030761684e+01,15,'ok',0);
INSERT INTO "scores" VALUES('f0de373e7ac4525919191ed593af4536','s1','instruction_alone',-1.10278288364410400387e+02,20,'ok',0);
INSERT INTO "scores" VALUES('f0de373e7ac4525919191ed593af4536','s1','instruction_given_response',-1.21560683727264404294e+02,20,'ok',0);
INSERT INTO "scores" VALUES('f0de373e7ac4525919191ed593af4536','s1','response_alone',-2.53985715389251708994e+02,43,'ok',0);
INSERT INTO "scores" VALUES('f0de373e7ac4525919191ed593af4536','s1','response_given_instruction',-2.59544323921203613282e+02,43,'ok',0);
INSERT INTO "scores" VALUES('f6c7b0277f39d8b46c5a90e431327145','s1','instruction_alone',-1.08878960609436035154e+02,20,'ok',0);
INSERT INTO "scores" VALUES('f6c7b0277f39d8b46c5a90e431327145','s1','instruction_given_response',-1.20442520618438720703e+02,20,'ok',0);
INSERT INTO "scores" VALUES('f6c7b0277f39d8b46c5a90e431327145','s1','response_alone',-2.53600587844848632821e+02,43,'ok',0);
INSERT INTO "scores" VALUES('f6c7b0277f39d8b46c5a90e431327145','s1','response_given_instruction',-2.57781419754028320303e+02,43,'ok',0);
INSERT INTO "scores" VALUES('fb3c1581bdd7f3be488698cd1633202d','s0','response_alone',-1.23669492244720458985e+02,21,'ok',0);
INSERT INTO "scores" VALUES('fb3c1581bdd7f3be488698cd1633202d','s0','response_given_instruction',-1.24882054805755615233e+02,21,'ok',0);
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
INSERT INTO "students" VALUES('s0',0,'/world/student',NULL,NULL,NULL,NULL,'{}');
INSERT INTO "students" VALUES('s1',1,'/world/student',NULL,'adapters/round-01','0acc6a7773d5956455fc2618d43140e1','s0','{"train_loss": 5.99929141998291, "steps": 1, "tokens": 515, "target_tokens": 264, "pairs": 6, "left_out": 0, "seconds": 0.3857680459987023}');
INSERT INTO "students" VALUES('s2',2,'/world/student',NULL,'adapters/round-02','929c5ba7cad1b5996b31ec23bb0e67a3','s0','{"train_loss": 5.998025178909302, "steps": 2, "tokens": 777, "target_tokens": 398, "pairs": 9, "left_out": 0, "seconds": 0.38134095299756154}');
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
INSERT INTO "teacher_calls" VALUES('5d27d4522d10f1abf8edbdd933a45e6b',1,'instruction','fc32fdfa52268e0e',0,1,'recorded','recorded','c4f5b45be4c4cf96b5287c938ba04514','{"critique": "", "instruction": "List 0 things, attempt 1.", "response": "There are 0 of them after 1 rounds."}','stop','ok',NULL,'',NULL,NULL,NULL,0.0);
INSERT INTO "teacher_calls" VALUES('d213d1c9f855f8a2d7818d9d611d0c7c',1,'instruction','5d2c1c3f480e9cc9',0,1,'recorded','recorded','edf77bca8bc00ed8ad71973e90f758a5','{"critique": "", "instruction": "List 2 things, attempt 1.", "response": "There are 2 of them after 1 rounds."}','stop','ok',NULL,'',NULL,NULL,NULL,0.0);
INSERT INTO "teacher_calls" VALUES('8c5cbb8d210ee7305dae31879f05cfd0',1,'instruction','e73b86bce46daadc',0,1,'recorded','recorded','80b742f88aff73619746438f976f3c0c','{"critique": "", "instruction": "List 3 things, attempt 1.", "response": "There are 3 of them after 1 rounds."}','stop','ok',NULL,'',NULL,NULL,NULL,0.0);
INSERT INTO "teacher_calls" VALUES('9f2830c9469753d94c491fad239e2c24',1,'instruction','868bc037f121549b',0,1,'recorded','recorded','d0a64db093a03e65b6cdf9d8d071e6a3','{"critique": "", "instruction": "List 5 things, attempt 1.", "response": "There are 5 of them after 1 rounds."}','stop','ok',NULL,'',NULL,NULL,NULL,0.0);
INSERT INTO "teacher_calls" VALUES('b75bb993fa1a5e3e823cc1ab0886a1fe',1,'instruction','17b6b023357b8d6e',0,1,'recorded','recorded','c63c7add3f4ffb4b417033d029d3177c','{"critique": "", "instruction": "List 6 things, attempt 1.", "response": "There are 6 of them after 1 rounds."}','stop','ok',NULL,'',NULL,NULL,NULL,0.0);
INSERT INTO "teacher_calls" VALUES('fef4e2fe891740e4d870cb7b2cb8aa62',1,'instruction','0ac1a91ec4485912',0,1,'recorded','recorded','da34912526da7af006ba83538c5759fc','{"critique": "", "instruction": "List 7 things, attempt 1.", "response": "There are 7 of them after 1 rounds."}','stop','ok',NULL,'',NULL,NULL,NULL,0.0);
INSERT INTO "teacher_calls" VALUES('935103478e7ef667b661883080e12b76',1,'instruction','77318010aae8f7d3',0,1,'recorded','recorded','0a197575170f982bc76492dcdb20e96e','{"critique": "", "instruction": "List 8 things, attempt 1.", "response": "There are 8 of them after 1 rounds."}','stop','ok',NULL,'',NULL,NULL,NULL,0.0);
INSERT INTO "teacher_calls" VALUES('99d1c6f5a28e593dc2f852c2952e8547',1,'instruction','88ff6b0a7e71e584',0,1,'recorded','recorded','da26d4b7cca31f8c5a9cbd45caea6e25','',NULL,'no-entry','the recording has no entry for this pair',NULL,NULL,NULL,NULL,0.0);
INSERT INTO "teacher_calls" VALUES('ab4f02104da4177a18358a2f864a99af',1,'instruction','a380be64fdd6ae7f',0,1,'recorded','recorded','fbb9f06256db4ac585a66a46cb94061d','{"critique": "", "instruction": "List 10 things, attempt 1.", "response": "There are 10 of them after 1 rounds."}','stop','ok',NULL,'',NULL,NULL,NULL,0.0);
INSERT INTO "teacher_calls" VALUES('b3099ee38faf7fc816ebe9e6b744434c',1,'instruction','c6455968d18bd912',0,1,'recorded','recorded','243dccfc82ad997a36562888e44305b2','{"critique": "", "instruction": "List 11 things, attempt 1.", "response": "There are 11 of them after 1 rounds."}','stop','ok',NULL,'',NULL,NULL,NULL,0.0);
INSERT INTO "teacher_calls" VALUES('1c123d95251c296e3e8a39fabaeaaeec',1,'response','fc32fdfa52268e0e',0,1,'recorded','recorded','5f518208fb5869b92615a9edf8a37407','{"critique": "", "response": "Here are 0 things: the first is a thing, number 1 is another."}','stop','ok',NULL,'',NULL,NULL,NULL,0.0);
INSERT INTO "teacher_calls" VALUES('e1a8977248c932a28acfd2a62571d852',1,'response','5d2c1c3f480e9cc9',0,1,'recorded','recorded','7911ab5f826e751522f87f943afbcbfa','{"critique": "", "response": "Here are 2 things: the first is a thing, number 1 is another."}','stop','ok',NULL,'',NULL,NULL,NULL,0.0);
INSERT INTO "teacher_calls" VALUES('1bd4f06a8f7c6260fea4ed45754ebfc1',1,'response','e73b86bce46daadc',0,1,'recorded','recorded','3acc1f10d7cb41c1d81b074439c4d040','{"critique": "", "response": "Here are 3 things: the first is a thing, number 1 is another."}','stop','ok',NULL,'',NULL,NULL,NULL,0.0);
INSERT INTO "teacher_calls" VALUES('7c2b6d35dc5446302c20f42610c53e8b',1,'response','868bc037f121549b',0,1,'recorded','recorded','54762d1b504d63694b56f5ae3c94c884','{"critique": "", "response": "Here are 5 things: the first is a thing, number 1 is another."}','stop','ok',NULL,'',NULL,NULL,NULL,0.0);
INSERT INTO "teacher_calls" VALUES('abe89c60066a1ff0a74cd753074aa762',1,'response','17b6b023357b8d6e',0,1,'recorded','recorded','889d9e37fec1f3e532041e5fed749431','{"critique": "", "response": "Here are 6 things: the first is a thing, number 1 is another."}','stop','ok',NULL,'',NULL,NULL,NULL,0.0);
INSERT INTO "teacher_calls" VALUES('1f627823ae876e5ba9a062fd74dee99c',1,'response','0ac1a91ec4485912',0,1,'recorded','recorded','566af6bd711843d6c1a192cfef83ef43','{"critique": "", "response": "Here are 7 things: the first is a thing, number 1 is another."}','stop','ok',NULL,'',NULL,NULL,NULL,0.0);
INSERT INTO "teacher_calls" VALUES('46ad5a51a4031edebdf9ba8d75c31793',1,'response','77318010aae8f7d3',0,1,'recorded','recorded','81fdd78e98c4d1945d65e12fcd32dff7','{"critique": "", "response": "Here are 8 things: the first is a thing, number 1 is another."}','stop','ok',NULL,'',NULL,NULL,NULL,0.0);
INSERT INTO "teacher_calls" VALUES('828b148c26308c0f7fe7ca34a24b0681',1,'response','88ff6b0a7e71e584',0,1,'recorded','recorded','cc521f606de147893fb6bdee4aa1c0c9','',NULL,'no-entry','the recording has no entry for this pair',NULL,NULL,NULL,NULL,0.0);
INSERT INTO "teacher_calls" VALUES('cdf301327f567ae305370888a85561fb',1,'response','a380be64fdd6ae7f',0,1,'recorded','recorded','e132153fd8ec84b4390c291bc71a52d6','{"critique": "", "response": "Here are 10 things: the first is a thing, number 1 is another."}','stop','ok',NULL,'',NULL,NULL,NULL,0.0);
INSERT INTO "teacher_calls" VALUES('77c97798d559e7768e6bd86576352f06',1,'response','c6455968d18bd912',0,1,'recorded','recorded','58e3c5ee09b3966bd42a5301d39cd8aa','{"critique": "", "response": "Here are 11 things: the first is a thing, number 1 is another."}','stop','ok',NULL,'',NULL,NULL,NULL,0.0);
INSERT INTO "teacher_calls" VALUES('966cffcfa66da5029e292c9cbd8c777f',2,'instruction','fc32fdfa52268e0e',0,1,'recorded','recorded','5ba6d18ac683cbe00ddc670d2f554d6d','{"critique": "", "instruction": "List 0 things, attempt 2.", "response": "There are 0 of them after 2 rounds."}','stop','ok',NULL,'',NULL,NULL,NULL,0.0);
INSERT INTO "teacher_calls" VALUES('34d0978924ffce379406529ae6e2a977',2,'instruction','5d2c1c3f480e9cc9',0,1,'recorded','recorded','1db3adb1cdd82fe1c46d5444f3083fde','{"critique": "", "instruction": "List 2 things, attempt 2.", "response": "There are 2 of them after 2 rounds."}','stop','ok',NULL,'',NULL,NULL,NULL,0.0);
INSERT INTO "teacher_calls" VALUES('c19fbe749880fbf7355745886c0a5949',2,'instruction','e73b86bce46daadc',0,1,'recorded','recorded','9a2e326621bcc6f244e8f7f14d82abb8','{"critique": "", "instruction": "List 3 things, attempt 2.", "response": "There are 3 of them after 2 rounds."}','stop','ok',NULL,'',NULL,NULL,NULL,0.0);
INSERT INTO "teacher_calls" VALUES('4f7ca08ecd73db34bbcee68c5e9c284c',2,'instruction','868bc037f121549b',0,1,'recorded','recorded','653775eac11dc5e9becfa9c95390a58d','{"critique": "", "instruction": "List 5 things, attempt 2.", "response": "There are 5 of them after 2 rounds."}','stop','ok',NULL,'',NULL,NULL,NULL,0.0);
INSERT INTO "teacher_calls" VALUES('03149213e72958bbb94f78f5247fd9bc',2,'instruction','17b6b023357b8d6e',0,1,'recorded','recorded','4c3a0ac52188569b6bf63cf18c7a6518','{"critique": "", "instruction": "List 6 things, attempt 2.", "response": "There are 6 of them after 2 rounds."}','stop','ok',NULL,'',NULL,NULL,NULL,0.0);
INSERT INTO "teacher_calls" VALUES('9d232e84a99e495301607517b1bd3759',2,'instruction','0ac1a91ec4485912',0,1,'recorded','recorded','84d90bd0cdbf220d625e7d7bfbe07a23','{"critique": "", "instruction": "List 7 things, attempt 2.", "response": "There are 7 of them after 2 rounds."}','stop','ok',NULL,'',NULL,NULL,NULL,0.0);
INSERT INTO "teacher_calls" VALUES('6095271c74191f5faa7bc6a1d65c7fe2',2,'instruction','77318010aae8f7d3',0,1,'recorded','recorded','9bc9df098a6440e874386338f4151028','{"critique": "", "instruction": "List 8 things, attempt 2.", "response": "There are 8 of them after 2 rounds."}','stop','ok',NULL,'',NULL,NULL,NULL,0.0);
INSERT INTO "teacher_calls" VALUES('ca2084d7280efedadce479d33702ca45',2,'instruction','88ff6b0a7e71e584',0,1,'recorded','recorded','339f61dd1640c69555630b40b709909d','',NULL,'no-entry','the recording has no entry for this pair',NULL,NULL,NULL,NULL,0.0);
INSERT INTO "teacher_calls" VALUES('47d796d6e469bf61fe36d25d1dfa3695',2,'instruction','a380be64fdd6ae7f',0,1,'recorded','recorded','047b468b54734cdc374be0af0c667de0','{"critique": "", "instruction": "List 10 things, attempt 2.", "response": "There are 10 of them after 2 rounds."}','stop','ok',NULL,'',NULL,NULL,NULL,0.0);
INSERT INTO "teacher_calls" VALUES('b7ee9586e930c93d23416fb7c22a0e15',2,'instruction','c6455968d18bd912',0,1,'recorded','recorded','58bbe6e9fec6d8c0ee5eea5580ee0b4f','{"critique": "", "instruction": "List 11 things, attempt 2.", "response": "There are 11 of them after 2 rounds."}','stop','ok',NULL,'',NULL,NULL,NULL,0.0);
INSERT INTO "teacher_calls" VALUES('f3caa318caa8caedfc9cf0ae8a8dbd15',2,'response','fc32fdfa52268e0e',0,1,'recorded','recorded','b0e10317198d289a6163896563577b3a','{"critique": "", "response": "Here are 0 things: the first is a thing, number 2 is another."}','stop','ok',NULL,'',NULL,NULL,NULL,0.0);
INSERT INTO "teacher_calls" VALUES('3cc53cfc43d724dfbb4b1f571d8e0ff7',2,'response','5d2c1c3f480e9cc9',0,1,'recorded','recorded','52c2294a6865c76b1f7aa702b73a9933','{"critique": "", "response": "Here are 2 things: the first is a thing, number 2 is another."}','stop','ok',NULL,'',NULL,NULL,NULL,0.0);
INSERT INTO "teacher_calls" VALUES('2ccfe232c2ee8c98a6acc57d58e34d1c',2,'response','e73b86bce46daadc',0,1,'recorded','recorded','74ccfaa17282d5f665f87b70ac3ab54b','{"critique": "", "response": "Here are 3 things: the first is a thing, number 2 is another."}','stop','ok',NULL,'',NULL,NULL,NULL,0.0);
INSERT INTO "teacher_calls" VALUES('d6e4b55c64fa9e660e86d44b17be1a62',2,'response','868bc037f121549b',0,1,'recorded','recorded','870e848b42a5cb9d065e28c213b71fa7','{"critique": "", "response": "Here are 5 things: the first is a thing, number 2 is another."}','stop','ok',NULL,'',NULL,NULL,NULL,0.0);
INSERT INTO "teacher_calls" VALUES('63a6bf0602b0d13085fc2db36a9f1ff0',2,'response','17b6b023357b8d6e',0,1,'recorded','recorded','ff533396410fa23535c32e181081fcc8','{"critique": "", "response": "Here are 6 things: the first is a thing, number 2 is another."}','stop','ok',NULL,'',NULL,NULL,NULL,0.0);
INSERT INTO "teacher_calls" VALUES('6f2a94e2114df02679d3dfe5f58907f1',2,'response','0ac1a91ec4485912',0,1,'recorded','recorded','f272e0b01f6fd6a8de375bbf4f9ae0ad','{"critique": "", "response": "Here are 7 things: the first is a thing, number 2 is another."}','stop','ok',NULL,'',NULL,NULL,NULL,0.0);
INSERT INTO "teacher_calls" VALUES('a7622ce235bfedb4f40324247426b190',2,'response','77318010aae8f7d3',0,1,'recorded','recorded','705a0ddf69efe5a97c9b65302effd150','{"critique": "", "response": "Here are 8 things: the first is a thing, number 2 is another."}','stop','ok',NULL,'',NULL,NULL,NULL,0.0);
INSERT INTO "teacher_calls" VALUES('d1191ca72ece008e2661794cdba248ee',2,'response','88ff6b0a7e71e584',0,1,'recorded','recorded','897530d4e135d173ad4a3b650e811094','',NULL,'no-entry','the recording has no entry for this pair',NULL,NULL,NULL,NULL,0.0);
INSERT INTO "teacher_calls" VALUES('ac2814267c0938a68847cf481a718acb',2,'response','a380be64fdd6ae7f',0,1,'recorded','recorded','68e030dd60f5ec658610ffa6253fa70a','{"critique": "", "response": "Here are 10 things: the first is a thing, number 2 is another."}','stop','ok',NULL,'',NULL,NULL,NULL,0.0);
INSERT INTO "teacher_calls" VALUES('687a0ed1acb8d20469151c58562a4368',2,'response','c6455968d18bd912',0,1,'recorded','recorded','714bb661e220edde5ce3e2b7c0157e92','{"critique": "", "response": "Here are 11 things: the first is a thing, number 2 is another."}','stop','ok',NULL,'',NULL,NULL,NULL,0.0);
CREATE TABLE training_sets (
            round INTEGER NOT NULL REFERENCES rounds(round),
            version_id TEXT NOT NULL REFERENCES versions(id),
            rank INTEGER NOT NULL,
            PRIMARY KEY (round, version_id)
        ) STRICT, WITHOUT ROWID;
INSERT INTO "training_sets" VALUES(1,'079612f89de8374666aac26939570483',2);
INSERT INTO "training_sets" VALUES(1,'0ddbaec9ba54630df71de36b0d0b91ab',0);
INSERT INTO "training_sets" VALUES(1,'81cf943b081b6f4a131d0b208afde604',3);
INSERT INTO "training_sets" VALUES(1,'bcf308d6866f922bba6d47d9128ca003',1);
INSERT INTO "training_sets" VALUES(1,'bead71c1a81ae11cd93a25acc83c983a',4);
INSERT INTO "training_sets" VALUES(1,'e41c05ae2b844593c5c1a122104434a6',5);
INSERT INTO "training_sets" VALUES(2,'3fab7625980361cb322a64d1a9e5ced5',3);
INSERT INTO "training_sets" VALUES(2,'45dfaf984c639ff577b43701ae22ea64',2);
INSERT INTO "training_sets" VALUES(2,'8f8b615e67c9742442547459249b150b',5);
INSERT INTO "training_sets" VALUES(2,'91266e1cbdfbe15a8d5cf0330ca0b442',7);
INSERT INTO "training_sets" VALUES(2,'bead71c1a81ae11cd93a25acc83c983a',8);
INSERT INTO "training_sets" VALUES(2,'c22cb93121ea3a03e7954e8f2c5ebdc7',1);
INSERT INTO "training_sets" VALUES(2,'d7eb8e2f466503ec07d53b6e898366e2',6);
INSERT INTO "training_sets" VALUES(2,'f0de373e7ac4525919191ed593af4536',0);
INSERT INTO "training_sets" VALUES(2,'f6c7b0277f39d8b46c5a90e431327145',4);
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
INSERT INTO "versions" VALUES('8b62b99d0c34c854e70f9c58456c91b2','fc32fdfa52268e0e',NULL,0,'original',0,'Name 0 things that are red.','Only things of size 0.','Thing 0 is red.',NULL);
INSERT INTO "versions" VALUES('0c4052e888ccd0b8835f3681c0dee867','6da00855ddfead12',NULL,0,'original',0,'Name 1 things that are green.','','Thing 1 is green.',NULL);
INSERT INTO "versions" VALUES('3fbcd7d95cf6c71fffa20e8b1124f015','5d2c1c3f480e9cc9',NULL,0,'original',0,'Name 2 things that are blue.','','Thing 2 is blue.',NULL);
INSERT INTO "versions" VALUES('89b69cf97dc84b8e8fd253d0291079fe','e73b86bce46daadc',NULL,0,'original',0,'Name 3 things that are black.','Only things of size 3.','Thing 3 is black.',NULL);
INSERT INTO "versions" VALUES('e7269c032e39b97113324ccd0c137352','8876d1af47ffdc16',NULL,0,'original',0,'Name 4 things that are white.','','Thing 4 is white.',NULL);
INSERT INTO "versions" VALUES('16a3fd79733e0e69a8d9cd74849c5db8','868bc037f121549b',NULL,0,'original',0,'Name 5 things that are grey.','','Thing 5 is grey.',NULL);
INSERT INTO "versions" VALUES('69e37bbabbea14c0e0f64587e89f772e','17b6b023357b8d6e',NULL,0,'original',0,'Name 6 things that are brown.','Only things of size 6.','Thing 6 is brown.',NULL);
INSERT INTO "versions" VALUES('1b92261b4526977cda155fc66a3b062a','0ac1a91ec4485912',NULL,0,'original',0,'Name 7 things that are pink.','','Thing 7 is pink.',NULL);
INSERT INTO "versions" VALUES('70f4a53a5f740dd99f7e83399aaed77a','77318010aae8f7d3',NULL,0,'original',0,'Name 8 things that are red.','','Thing 8 is red.',NULL);
INSERT INTO "versions" VALUES('8e4e8fe438d59aedcbd56846ae11a52b','88ff6b0a7e71e584',NULL,0,'original',0,'Name 9 things that are green.','Only things of size 9.','Thing 9 is green.',NULL);
INSERT INTO "versions" VALUES('ad54d02605c7c9949e93c741cd27c052','a380be64fdd6ae7f',NULL,0,'original',0,'Name 10 things that are blue.','','Thing 10 is blue.',NULL);
INSERT INTO "versions" VALUES('e880a78fd5919ce3c33f173a38d003c5','c6455968d18bd912',NULL,0,'original',0,'Name 11 things that are black.','','Thing 11 is black.',NULL);
INSERT INTO "versions" VALUES('8c0a99e94885fbb5a1077453a925c89a','fc32fdfa52268e0e','8b62b99d0c34c854e70f9c58456c91b2',1,'instruction',0,'List 0 things, attempt 1.','','There are 0 of them after 1 rounds.','5d27d4522d10f1abf8edbdd933a45e6b');
INSERT INTO "versions" VALUES('3364383a82ecd68016d5dd9007d97931','5d2c1c3f480e9cc9','3fbcd7d95cf6c71fffa20e8b1124f015',1,'instruction',0,'List 2 things, attempt 1.','','There are 2 of them after 1 rounds.','d213d1c9f855f8a2d7818d9d611d0c7c');
INSERT INTO "versions" VALUES('a396c1fe4f302930febe54cbc91ec087','e73b86bce46daadc','89b69cf97dc84b8e8fd253d0291079fe',1,'instruction',0,'List 3 things, attempt 1.','','There are 3 of them after 1 rounds.','8c5cbb8d210ee7305dae31879f05cfd0');
INSERT INTO "versions" VALUES('9891659b24e849471db784ec7b40dc59','868bc037f121549b','16a3fd79733e0e69a8d9cd74849c5db8',1,'instruction',0,'List 5 things, attempt 1.','','There are 5 of them after 1 rounds.','9f2830c9469753d94c491fad239e2c24');
INSERT INTO "versions" VALUES('fb3c1581bdd7f3be488698cd1633202d','17b6b023357b8d6e','69e37bbabbea14c0e0f64587e89f772e',1,'instruction',0,'List 6 things, attempt 1.','','There are 6 of them after 1 rounds.','b75bb993fa1a5e3e823cc1ab0886a1fe');
INSERT INTO "versions" VALUES('65245323aebacc0c92ea57a0a905e214','0ac1a91ec4485912','1b92261b4526977cda155fc66a3b062a',1,'instruction',0,'List 7 things, attempt 1.','','There are 7 of them after 1 rounds.','fef4e2fe891740e4d870cb7b2cb8aa62');
INSERT INTO "versions" VALUES('6b5d104ae0ab3d213aaa13c60857f308','77318010aae8f7d3','70f4a53a5f740dd99f7e83399aaed77a',1,'instruction',0,'List 8 things, attempt 1.','','There are 8 of them after 1 rounds.','935103478e7ef667b661883080e12b76');
INSERT INTO "versions" VALUES('4ea59ae2137072d68f0f6ed4b64f5efc','a380be64fdd6ae7f','ad54d02605c7c9949e93c741cd27c052',1,'instruction',0,'List 10 things, attempt 1.','','There are 10 of them after 1 rounds.','ab4f02104da4177a18358a2f864a99af');
INSERT INTO "versions" VALUES('6e5c193591443217b165d9905c0ccd45','c6455968d18bd912','e880a78fd5919ce3c33f173a38d003c5',1,'instruction',0,'List 11 things, attempt 1.','','There are 11 of them after 1 rounds.','b3099ee38faf7fc816ebe9e6b744434c');
INSERT INTO "versions" VALUES('079612f89de8374666aac26939570483','fc32fdfa52268e0e','8c0a99e94885fbb5a1077453a925c89a',1,'response',0,'List 0 things, attempt 1.','','Here are 0 things: the first is a thing, number 1 is another.','1c123d95251c296e3e8a39fabaeaaeec');
INSERT INTO "versions" VALUES('81cf943b081b6f4a131d0b208afde604','5d2c1c3f480e9cc9','3364383a82ecd68016d5dd9007d97931',1,'response',0,'List 2 things, attempt 1.','','Here are 2 things: the first is a thing, number 1 is another.','e1a8977248c932a28acfd2a62571d852');
INSERT INTO "versions" VALUES('e41c05ae2b844593c5c1a122104434a6','e73b86bce46daadc','a396c1fe4f302930febe54cbc91ec087',1,'response',0,'List 3 things, attempt 1.','','Here are 3 things: the first is a thing, number 1 is another.','1bd4f06a8f7c6260fea4ed45754ebfc1');
INSERT INTO "versions" VALUES('0ddbaec9ba54630df71de36b0d0b91ab','868bc037f121549b','9891659b24e849471db784ec7b40dc59',1,'response',0,'List 5 things, attempt 1.','','Here are 5 things: the first is a thing, number 1 is another.','7c2b6d35dc5446302c20f42610c53e8b');
INSERT INTO "versions" VALUES('07f3fd91626699d5613c5434257b8171','17b6b023357b8d6e','69e37bbabbea14c0e0f64587e89f772e',1,'response',0,'Name 6 things that are brown.','Only things of size 6.','Here are 6 things: the first is a thing, number 1 is another.','abe89c60066a1ff0a74cd753074aa762');
INSERT INTO "versions" VALUES('bcf308d6866f922bba6d47d9128ca003','0ac1a91ec4485912','1b92261b4526977cda155fc66a3b062a',1,'response',0,'Name 7 things that are pink.','','Here are 7 things: the first is a thing, number 1 is another.','1f627823ae876e5ba9a062fd74dee99c');
INSERT INTO "versions" VALUES('bead71c1a81ae11cd93a25acc83c983a','77318010aae8f7d3','6b5d104ae0ab3d213aaa13c60857f308',1,'response',0,'List 8 things, attempt 1.','','Here are 8 things: the first is a thing, number 1 is another.','46ad5a51a4031edebdf9ba8d75c31793');
INSERT INTO "versions" VALUES('9b6fb2c81876e469e45325b49d4b4bc2','a380be64fdd6ae7f','4ea59ae2137072d68f0f6ed4b64f5efc',1,'response',0,'List 10 things, attempt 1.','','Here are 10 things: the first is a thing, number 1 is another.','cdf301327f567ae305370888a85561fb');
INSERT INTO "versions" VALUES('9e103bb6803b8cbadc87001d0ca22f04','c6455968d18bd912','6e5c193591443217b165d9905c0ccd45',1,'response',0,'List 11 things, attempt 1.','','Here are 11 things: the first is a thing, number 1 is another.','77c97798d559e7768e6bd86576352f06');
INSERT INTO "versions" VALUES('3eb4a3240f63d1c4182db8928adcb5d9','fc32fdfa52268e0e','079612f89de8374666aac26939570483',2,'instruction',0,'List 0 things, attempt 2.','','There are 0 of them after 2 rounds.','966cffcfa66da5029e292c9cbd8c777f');
INSERT INTO "versions" VALUES('6d29c302bc0dacd46a61c5b58ff3e5b1','5d2c1c3f480e9cc9','81cf943b081b6f4a131d0b208afde604',2,'instruction',0,'List 2 things, attempt 2.','','There are 2 of them after 2 rounds.','34d0978924ffce379406529ae6e2a977');
INSERT INTO "versions" VALUES('e84644eb4b50a07ab0e99e8bf1a3a53c','e73b86bce46daadc','e41c05ae2b844593c5c1a122104434a6',2,'instruction',0,'List 3 things, attempt 2.','','There are 3 of them after 2 rounds.','c19fbe749880fbf7355745886c0a5949');
INSERT INTO "versions" VALUES('746377e8ef6c3920a2e5f3e89fddc079','868bc037f121549b','0ddbaec9ba54630df71de36b0d0b91ab',2,'instruction',0,'List 5 things, attempt 2.','','There are 5 of them after 2 rounds.','4f7ca08ecd73db34bbcee68c5e9c284c');
INSERT INTO "versions" VALUES('3054aad92fca5dc9fdcffd9fa2525e22','17b6b023357b8d6e','69e37bbabbea14c0e0f64587e89f772e',2,'instruction',0,'List 6 things, attempt 2.','','There are 6 of them after 2 rounds.','03149213e72958bbb94f78f5247fd9bc');
INSERT INTO "versions" VALUES('d6f7ed3353f90df6c42996e089e9d7b7','0ac1a91ec4485912','bcf308d6866f922bba6d47d9128ca003',2,'instruction',0,'List 7 things, attempt 2.','','There are 7 of them after 2 rounds.','9d232e84a99e495301607517b1bd3759');
INSERT INTO "versions" VALUES('a2f9c32b87cbed190ba9c10fb15df896','77318010aae8f7d3','bead71c1a81ae11cd93a25acc83c983a',2,'instruction',0,'List 8 things, attempt 2.','','There are 8 of them after 2 rounds.','6095271c74191f5faa7bc6a1d65c7fe2');
INSERT INTO "versions" VALUES('e4e1b9ea1513ec8c02c4328d231b6ba0','a380be64fdd6ae7f','4ea59ae2137072d68f0f6ed4b64f5efc',2,'instruction',0,'List 10 things, attempt 2.','','There are 10 of them after 2 rounds.','47d796d6e469bf61fe36d25d1dfa3695');
INSERT INTO "versions" VALUES('2c98ebf9e7ca55f1aa1c2cf70add2efb','c6455968d18bd912','6e5c193591443217b165d9905c0ccd45',2,'instruction',0,'List 11 things, attempt 2.','','There are 11 of them after 2 rounds.','b7ee9586e930c93d23416fb7c22a0e15');
INSERT INTO "versions" VALUES('45dfaf984c639ff577b43701ae22ea64','fc32fdfa52268e0e','3eb4a3240f63d1c4182db8928adcb5d9',2,'response',0,'List 0 things, attempt 2.','','Here are 0 things: the first is a thing, number 2 is another.','f3caa318caa8caedfc9cf0ae8a8dbd15');
INSERT INTO "versions" VALUES('d7eb8e2f466503ec07d53b6e898366e2','5d2c1c3f480e9cc9','6d29c302bc0dacd46a61c5b58ff3e5b1',2,'response',0,'List 2 things, attempt 2.','','Here are 2 things: the first is a thing, number 2 is another.','3cc53cfc43d724dfbb4b1f571d8e0ff7');
INSERT INTO "versions" VALUES('91266e1cbdfbe15a8d5cf0330ca0b442','e73b86bce46daadc','e84644eb4b50a07ab0e99e8bf1a3a53c',2,'response',0,'List 3 things, attempt 2.','','Here are 3 things: the first is a thing, number 2 is another.','2ccfe232c2ee8c98a6acc57d58e34d1c');
INSERT INTO "versions" VALUES('f0de373e7ac4525919191ed593af4536','868bc037f121549b','746377e8ef6c3920a2e5f3e89fddc079',2,'response',0,'List 5 things, attempt 2.','','Here are 5 things: the first is a thing, number 2 is another.','d6e4b55c64fa9e660e86d44b17be1a62');
INSERT INTO "versions" VALUES('f6c7b0277f39d8b46c5a90e431327145','17b6b023357b8d6e','3054aad92fca5dc9fdcffd9fa2525e22',2,'response',0,'List 6 things, attempt 2.','','Here are 6 things: the first is a thing, number 2 is another.','63a6bf0602b0d13085fc2db36a9f1ff0');
INSERT INTO "versions" VALUES('8f8b615e67c9742442547459249b150b','0ac1a91ec4485912','bcf308d6866f922bba6d47d9128ca003',2,'response',0,'Name 7 things that are pink.','','Here are 7 things: the first is a thing, number 2 is another.','6f2a94e2114df02679d3dfe5f58907f1');
INSERT INTO "versions" VALUES('4e29e51949a380f424adc4000339fa2f','77318010aae8f7d3','bead71c1a81ae11cd93a25acc83c983a',2,'response',0,'List 8 things, attempt 1.','','Here are 8 things: the first is a thing, number 2 is another.','a7622ce235bfedb4f40324247426b190');
INSERT INTO "versions" VALUES('3fab7625980361cb322a64d1a9e5ced5','a380be64fdd6ae7f','e4e1b9ea1513ec8c02c4328d231b6ba0',2,'response',0,'List 10 things, attempt 2.','','Here are 10 things: the first is a thing, number 2 is another.','ac2814267c0938a68847cf481a718acb');
INSERT INTO "versions" VALUES('c22cb93121ea3a03e7954e8f2c5ebdc7','c6455968d18bd912','2c98ebf9e7ca55f1aa1c2cf70add2efb',2,'response',0,'List 11 things, attempt 2.','','Here are 11 things: the first is a thing, number 2 is another.','687a0ed1acb8d20469151c58562a4368');
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
CREATE VIEW round_summary AS
        SELECT decisions.round, decisions.phase, COUNT(*) AS pool,
            SUM(reason = 'accepted') AS accepted, SUM(reason = 'refused') AS refused,
            SUM(reason = 'tie') AS tie, SUM(reason = 'unscorable') AS unscorable,
            SUM(reason = 'no-candidate') AS no_candidate, SUM(reason = 'frozen') AS frozen,
            SUM(reason = 'policy') AS policy,
            (SELECT COUNT(*) FROM training_sets WHERE training_sets.round = decisions.round) AS training
        FROM decisions GROUP BY decisions.round, decisions.phase;
COMMIT;
