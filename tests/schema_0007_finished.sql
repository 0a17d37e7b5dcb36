BEGIN TRANSACTION;
CREATE TABLE "_sqlite_migrations" (
   "id" INTEGER PRIMARY KEY,
   "migration_set" TEXT,
   "name" TEXT,
   "applied_at" TEXT
);
INSERT INTO "_sqlite_migrations" VALUES(1,'reflectune','0001_tables','2026-11-28 16:21:04.456520+00:00');
INSERT INTO "_sqlite_migrations" VALUES(2,'reflectune','0002_views','2026-11-28 16:21:04.502996+00:00');
INSERT INTO "_sqlite_migrations" VALUES(3,'reflectune','0003_config_changes','2026-11-28 16:21:04.509044+00:00');
INSERT INTO "_sqlite_migrations" VALUES(4,'reflectune','0004_cached_calls','2026-11-28 16:21:04.512952+00:00');
INSERT INTO "_sqlite_migrations" VALUES(5,'reflectune','0005_seals','2026-11-28 16:21:04.520612+00:00');
INSERT INTO "_sqlite_migrations" VALUES(6,'reflectune','0006_quick_views','2026-11-28 16:21:04.573321+00:00');
INSERT INTO "_sqlite_migrations" VALUES(7,'reflectune','0007_pool_and_outcomes','2026-11-28 16:21:04.643743+00:00');
CREATE TABLE config_changes (
            changed_at TEXT NOT NULL,
            key TEXT NOT NULL,
            before TEXT NOT NULL,
            after TEXT NOT NULL
        , seal INTEGER) STRICT;
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
INSERT INTO "decisions" VALUES(1,'instruction','0ac1a91ec4485912','s0','ifd+r-ifd','1b92261b4526977cda155fc66a3b062a','1b92261b4526977cda155fc66a3b062a','65245323aebacc0c92ea57a0a905e214','refused',1.32772253136512152771e+00,1.32772253136512152771e+00,1.09097677295111306072e+00,0.0);
INSERT INTO "decisions" VALUES(1,'instruction','17b6b023357b8d6e','s0','ifd+r-ifd','69e37bbabbea14c0e0f64587e89f772e','69e37bbabbea14c0e0f64587e89f772e','fb3c1581bdd7f3be488698cd1633202d','refused',1.0601655252460222556e+00,1.0601655252460222556e+00,1.05944074004511934461e+00,0.0);
INSERT INTO "decisions" VALUES(1,'instruction','5d2c1c3f480e9cc9','s0','ifd+r-ifd','3fbcd7d95cf6c71fffa20e8b1124f015','3364383a82ecd68016d5dd9007d97931','3364383a82ecd68016d5dd9007d97931','accepted',1.04259242627241355272e+00,1.08612059962427620618e+00,1.08612059962427620618e+00,0.0);
INSERT INTO "decisions" VALUES(1,'instruction','77318010aae8f7d3','s0','ifd+r-ifd','70f4a53a5f740dd99f7e83399aaed77a','6b5d104ae0ab3d213aaa13c60857f308','6b5d104ae0ab3d213aaa13c60857f308','accepted',8.6885053470274709042e-01,1.02179090503956748747e+00,1.02179090503956748747e+00,0.0);
INSERT INTO "decisions" VALUES(1,'instruction','868bc037f121549b','s0','ifd+r-ifd','16a3fd79733e0e69a8d9cd74849c5db8','9891659b24e849471db784ec7b40dc59','9891659b24e849471db784ec7b40dc59','accepted',0.928595743028837,1.12327932613942071959e+00,1.12327932613942071959e+00,0.0);
INSERT INTO "decisions" VALUES(1,'instruction','88ff6b0a7e71e584',NULL,'ifd+r-ifd','8e4e8fe438d59aedcbd56846ae11a52b','8e4e8fe438d59aedcbd56846ae11a52b',NULL,'no-candidate',NULL,NULL,NULL,0.0);
INSERT INTO "decisions" VALUES(1,'instruction','a380be64fdd6ae7f','s0','ifd+r-ifd','ad54d02605c7c9949e93c741cd27c052','4ea59ae2137072d68f0f6ed4b64f5efc','4ea59ae2137072d68f0f6ed4b64f5efc','accepted',9.94320413675961356503e-01,1.07314749507955276008e+00,1.07314749507955276008e+00,0.0);
INSERT INTO "decisions" VALUES(1,'instruction','c6455968d18bd912','s0','ifd+r-ifd','e880a78fd5919ce3c33f173a38d003c5','6e5c193591443217b165d9905c0ccd45','6e5c193591443217b165d9905c0ccd45','accepted',9.20064069108366133775e-01,1.05068696078443246655e+00,1.05068696078443246655e+00,0.0);
INSERT INTO "decisions" VALUES(1,'instruction','e73b86bce46daadc','s0','ifd+r-ifd','89b69cf97dc84b8e8fd253d0291079fe','a396c1fe4f302930febe54cbc91ec087','a396c1fe4f302930febe54cbc91ec087','accepted',9.54783261621736545343e-01,1.04677517263150043902e+00,1.04677517263150043902e+00,0.0);
INSERT INTO "decisions" VALUES(1,'instruction','fc32fdfa52268e0e','s0','ifd+r-ifd','8b62b99d0c34c854e70f9c58456c91b2','8c0a99e94885fbb5a1077453a925c89a','8c0a99e94885fbb5a1077453a925c89a','accepted',8.49890678960925183282e-01,1.11519375122806763123e+00,1.11519375122806763123e+00,0.0);
INSERT INTO "decisions" VALUES(1,'response','0ac1a91ec4485912','s0','ifd+r-ifd','1b92261b4526977cda155fc66a3b062a','bcf308d6866f922bba6d47d9128ca003','bcf308d6866f922bba6d47d9128ca003','accepted',1.07573016370439011879e+00,1.05842557419987692846e+00,1.05842557419987692846e+00,0.0);
INSERT INTO "decisions" VALUES(1,'response','17b6b023357b8d6e','s0','ifd+r-ifd','69e37bbabbea14c0e0f64587e89f772e','69e37bbabbea14c0e0f64587e89f772e','07f3fd91626699d5613c5434257b8171','refused',1.09997695583797239216e+00,1.09997695583797239216e+00,1.10129632290706913622e+00,0.0);
INSERT INTO "decisions" VALUES(1,'response','5d2c1c3f480e9cc9','s0','ifd+r-ifd','3364383a82ecd68016d5dd9007d97931','81cf943b081b6f4a131d0b208afde604','81cf943b081b6f4a131d0b208afde604','accepted',1.64051029358182076656e+00,1.57521142382532408632e+00,1.57521142382532408632e+00,0.0);
INSERT INTO "decisions" VALUES(1,'response','77318010aae8f7d3','s0','ifd+r-ifd','6b5d104ae0ab3d213aaa13c60857f308','bead71c1a81ae11cd93a25acc83c983a','bead71c1a81ae11cd93a25acc83c983a','accepted',1.64672858754891948684e+00,1.63670052084912742706e+00,1.63670052084912742706e+00,0.0);
INSERT INTO "decisions" VALUES(1,'response','868bc037f121549b','s0','ifd+r-ifd','9891659b24e849471db784ec7b40dc59','0ddbaec9ba54630df71de36b0d0b91ab','0ddbaec9ba54630df71de36b0d0b91ab','accepted',1.75243547808448574265e+00,1.70224658672294260064e+00,1.70224658672294260064e+00,0.0);
INSERT INTO "decisions" VALUES(1,'response','88ff6b0a7e71e584',NULL,'ifd+r-ifd','8e4e8fe438d59aedcbd56846ae11a52b','8e4e8fe438d59aedcbd56846ae11a52b',NULL,'no-candidate',NULL,NULL,NULL,0.0);
INSERT INTO "decisions" VALUES(1,'response','a380be64fdd6ae7f','s0','ifd+r-ifd','4ea59ae2137072d68f0f6ed4b64f5efc','4ea59ae2137072d68f0f6ed4b64f5efc','9b6fb2c81876e469e45325b49d4b4bc2','refused',1.56789091492510079817e+00,1.56789091492510079817e+00,1.58319805113061518042e+00,0.0);
INSERT INTO "decisions" VALUES(1,'response','c6455968d18bd912','s0','ifd+r-ifd','6e5c193591443217b165d9905c0ccd45','6e5c193591443217b165d9905c0ccd45','9e103bb6803b8cbadc87001d0ca22f04','refused',1.58912386387726445313e+00,1.58912386387726445313e+00,1.61424696973073644734e+00,0.0);
INSERT INTO "decisions" VALUES(1,'response','e73b86bce46daadc','s0','ifd+r-ifd','a396c1fe4f302930febe54cbc91ec087','e41c05ae2b844593c5c1a122104434a6','e41c05ae2b844593c5c1a122104434a6','accepted',1.59838429939002901747e+00,1.58154362223536204545e+00,1.58154362223536204545e+00,0.0);
INSERT INTO "decisions" VALUES(1,'response','fc32fdfa52268e0e','s0','ifd+r-ifd','8c0a99e94885fbb5a1077453a925c89a','079612f89de8374666aac26939570483','079612f89de8374666aac26939570483','accepted',1.69953391669494924265e+00,1.67681918395402695942e+00,1.67681918395402695942e+00,0.0);
INSERT INTO "decisions" VALUES(2,'instruction','0ac1a91ec4485912','s1','ifd+r-ifd','bcf308d6866f922bba6d47d9128ca003','bcf308d6866f922bba6d47d9128ca003','d6f7ed3353f90df6c42996e089e9d7b7','refused',1.05110946416909056821e+00,1.05110946416909056821e+00,1.03379197844479064904e+00,0.0);
INSERT INTO "decisions" VALUES(2,'instruction','17b6b023357b8d6e','s1','ifd+r-ifd','69e37bbabbea14c0e0f64587e89f772e','69e37bbabbea14c0e0f64587e89f772e','3054aad92fca5dc9fdcffd9fa2525e22','refused',1.02386621070787109388e+00,1.02386621070787109388e+00,1.00334266236269420424e+00,0.0);
INSERT INTO "decisions" VALUES(2,'instruction','5d2c1c3f480e9cc9','s1','ifd+r-ifd','81cf943b081b6f4a131d0b208afde604','6d29c302bc0dacd46a61c5b58ff3e5b1','6d29c302bc0dacd46a61c5b58ff3e5b1','accepted',9.93375528033785482051e-01,1.04130528215503437294e+00,1.04130528215503437294e+00,0.0);
INSERT INTO "decisions" VALUES(2,'instruction','77318010aae8f7d3','s1','ifd+r-ifd','bead71c1a81ae11cd93a25acc83c983a','bead71c1a81ae11cd93a25acc83c983a','a2f9c32b87cbed190ba9c10fb15df896','refused',9.98909159501344623421e-01,9.98909159501344623421e-01,9.74411618558374326148e-01,0.0);
INSERT INTO "decisions" VALUES(2,'instruction','868bc037f121549b','s1','ifd+r-ifd','0ddbaec9ba54630df71de36b0d0b91ab','746377e8ef6c3920a2e5f3e89fddc079','746377e8ef6c3920a2e5f3e89fddc079','accepted',1.02525691479526193106e+00,1.06128367669908230119e+00,1.06128367669908230119e+00,0.0);
INSERT INTO "decisions" VALUES(2,'instruction','88ff6b0a7e71e584',NULL,'ifd+r-ifd','8e4e8fe438d59aedcbd56846ae11a52b','8e4e8fe438d59aedcbd56846ae11a52b',NULL,'no-candidate',NULL,NULL,NULL,0.0);
INSERT INTO "decisions" VALUES(2,'instruction','a380be64fdd6ae7f','s1','ifd+r-ifd','4ea59ae2137072d68f0f6ed4b64f5efc','e4e1b9ea1513ec8c02c4328d231b6ba0','e4e1b9ea1513ec8c02c4328d231b6ba0','accepted',9.89068656166335768986e-01,1.00358696636796596024e+00,1.00358696636796596024e+00,0.0);
INSERT INTO "decisions" VALUES(2,'instruction','c6455968d18bd912','s1','ifd+r-ifd','6e5c193591443217b165d9905c0ccd45','2c98ebf9e7ca55f1aa1c2cf70add2efb','2c98ebf9e7ca55f1aa1c2cf70add2efb','accepted',9.77801829339489669834e-01,9.87535436285425727298e-01,9.87535436285425727298e-01,0.0);
INSERT INTO "decisions" VALUES(2,'instruction','e73b86bce46daadc','s1','ifd+r-ifd','e41c05ae2b844593c5c1a122104434a6','e84644eb4b50a07ab0e99e8bf1a3a53c','e84644eb4b50a07ab0e99e8bf1a3a53c','accepted',9.668078582957977396e-01,1.01187131306239463945e+00,1.01187131306239463945e+00,0.0);
INSERT INTO "decisions" VALUES(2,'instruction','fc32fdfa52268e0e','s1','ifd+r-ifd','079612f89de8374666aac26939570483','3eb4a3240f63d1c4182db8928adcb5d9','3eb4a3240f63d1c4182db8928adcb5d9','accepted',1.00148863925234787863e+00,1.04245463338527200036e+00,1.04245463338527200036e+00,0.0);
INSERT INTO "decisions" VALUES(2,'response','0ac1a91ec4485912','s1','ifd+r-ifd','bcf308d6866f922bba6d47d9128ca003','8f8b615e67c9742442547459249b150b','8f8b615e67c9742442547459249b150b','accepted',1.02763835983895912562e+00,1.02506096600597196299e+00,1.02506096600597196299e+00,0.0);
INSERT INTO "decisions" VALUES(2,'response','17b6b023357b8d6e','s1','ifd+r-ifd','69e37bbabbea14c0e0f64587e89f772e','69e37bbabbea14c0e0f64587e89f772e','1241caf657e7cf12ce5960755ef92390','refused',1.05675577575223922366e+00,1.05675577575223922366e+00,1.05773059612210795776e+00,0.0);
INSERT INTO "decisions" VALUES(2,'response','5d2c1c3f480e9cc9','s1','ifd+r-ifd','6d29c302bc0dacd46a61c5b58ff3e5b1','d7eb8e2f466503ec07d53b6e898366e2','d7eb8e2f466503ec07d53b6e898366e2','accepted',1.58051704479628685184e+00,1.48669781130486788889e+00,1.48669781130486788889e+00,0.0);
INSERT INTO "decisions" VALUES(2,'response','77318010aae8f7d3','s1','ifd+r-ifd','bead71c1a81ae11cd93a25acc83c983a','bead71c1a81ae11cd93a25acc83c983a','4e29e51949a380f424adc4000339fa2f','refused',1.60070930857587012674e+00,1.60070930857587012674e+00,1.60865361149831498366e+00,0.0);
INSERT INTO "decisions" VALUES(2,'response','868bc037f121549b','s1','ifd+r-ifd','746377e8ef6c3920a2e5f3e89fddc079','f0de373e7ac4525919191ed593af4536','f0de373e7ac4525919191ed593af4536','accepted',1.72247417352541298818e+00,1.64348238826479686736e+00,1.64348238826479686736e+00,0.0);
INSERT INTO "decisions" VALUES(2,'response','88ff6b0a7e71e584',NULL,'ifd+r-ifd','8e4e8fe438d59aedcbd56846ae11a52b','8e4e8fe438d59aedcbd56846ae11a52b',NULL,'no-candidate',NULL,NULL,NULL,0.0);
INSERT INTO "decisions" VALUES(2,'response','a380be64fdd6ae7f','s1','ifd+r-ifd','e4e1b9ea1513ec8c02c4328d231b6ba0','3fab7625980361cb322a64d1a9e5ced5','3fab7625980361cb322a64d1a9e5ced5','accepted',1.51129460435184226341e+00,1.50234288672540472475e+00,1.50234288672540472475e+00,0.0);
INSERT INTO "decisions" VALUES(2,'response','c6455968d18bd912','s1','ifd+r-ifd','2c98ebf9e7ca55f1aa1c2cf70add2efb','c22cb93121ea3a03e7954e8f2c5ebdc7','c22cb93121ea3a03e7954e8f2c5ebdc7','accepted',1.54232130067407102735e+00,1.53962139417293086829e+00,1.53962139417293086829e+00,0.0);
INSERT INTO "decisions" VALUES(2,'response','e73b86bce46daadc','s1','ifd+r-ifd','e84644eb4b50a07ab0e99e8bf1a3a53c','91266e1cbdfbe15a8d5cf0330ca0b442','91266e1cbdfbe15a8d5cf0330ca0b442','accepted',1.58755240971402877825e+00,1.54133466463620716346e+00,1.54133466463620716346e+00,0.0);
INSERT INTO "decisions" VALUES(2,'response','fc32fdfa52268e0e','s1','ifd+r-ifd','3eb4a3240f63d1c4182db8928adcb5d9','45dfaf984c639ff577b43701ae22ea64','45dfaf984c639ff577b43701ae22ea64','accepted',1.6532763795775398119e+00,1.60120066765237401007e+00,1.60120066765237401007e+00,0.0);
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
INSERT INTO "evaluations" VALUES(0,'s0','nll',5.8933945723942349204e+00,2,5.84833519663129486332e+00,5.93845394815717497749e+00,398588376826019358);
INSERT INTO "evaluations" VALUES(0,'s0','response_tokens',8.0,2,8.0,8.0,6612156052761879137);
INSERT INTO "evaluations" VALUES(1,'s1','nll',5.76010961191994752539e+00,2,5.7133020986829485821e+00,5.80691712515694646867e+00,7488051518455620201);
INSERT INTO "evaluations" VALUES(1,'s1','response_tokens',8.0,2,8.0,8.0,3967645990439007514);
INSERT INTO "evaluations" VALUES(2,'s2','nll',5.73368917192731597509e+00,2,5.64750375475202304187e+00,5.81987458910260890831e+00,5015258493854379058);
INSERT INTO "evaluations" VALUES(2,'s2','response_tokens',8.0,2,8.0,8.0,6305701130655267455);
CREATE TABLE rounds (
            round INTEGER PRIMARY KEY,
            student_id TEXT REFERENCES students(id),
            started_at TEXT NOT NULL,
            finished_at TEXT,
            status TEXT NOT NULL CHECK (status IN ('running', 'finished')),
            stop_reason TEXT,
            metrics TEXT NOT NULL
        ) STRICT;
INSERT INTO "rounds" VALUES(0,'s0','2026-11-28T16:21:04+00:00','2026-11-28T16:21:06+00:00','finished',NULL,'{"seconds":{"evaluate":1.64323035300185}}');
INSERT INTO "rounds" VALUES(1,'s1','2026-11-28T16:21:06+00:00','2026-11-28T16:21:15+00:00','finished',NULL,'{"seconds":{"reflect":0.105971965997014,"select":2.79741301900504,"refinetune":1.79769944999862,"evaluate":4.7245205950021},"frozen":10}');
INSERT INTO "rounds" VALUES(2,'s2','2026-11-28T16:21:15+00:00','2026-11-28T16:21:23+00:00','finished','rounds','{"seconds":{"reflect":0.19256752300862,"select":2.31146999399789,"refinetune":1.62036367199471,"evaluate":3.29033020999487},"frozen":10}');
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
INSERT INTO "runs" VALUES('finished','2026-11-28T16:21:04+00:00','{"name": "finished", "rounds": 2, "seed": 0, "data": {"path": "/world/data.json", "hf": null, "split": "train", "format": "auto", "limit": null, "holdout": 2, "skip_invalid": false}, "teacher": {"engine": "recorded", "model": null, "revision": null, "base_url": null, "api_key_env": null, "path": "/world/teacher.jsonl", "prompts": null, "candidates": 1, "temperature": 0.0, "top_p": 1.0, "max_tokens": 2048, "concurrency": null, "timeout": 600.0, "retries": 2, "structured": true, "price_in": null, "price_out": null, "budget_tokens": null, "budget_usd": null, "freeze_after": null, "cache": "on", "dtype": "auto", "quantization": null, "tensor_parallel_size": null, "gpu_memory_utilization": null, "max_model_len": null}, "student": {"model": "/world/student", "revision": null, "template": "plain", "thinking": false, "date": "2024-07-26", "separator": "<s>", "max_length": 256, "dtype": "float32", "device": "auto", "batch_tokens": 2048, "threads": 2}, "selection": {"policy": "ifd+r-ifd", "margin": 0.0, "train_max_ifd": 1000000.0, "ifd_cap": null, "train_max_r_ifd": 1000000.0, "keep": "improved", "top_fraction": 1.0, "random_rate": 0.5}, "refinetune": {"r": 4, "alpha": 8, "dropout": 0.0, "target_modules": "all-linear", "lr": 0.01, "epochs": 1, "tokens": null, "batch_tokens": 512, "warmup": 0.03, "start_from": "base", "gradient_checkpointing": false, "load_in_4bit": false, "anchor": 0.0}, "evaluate": {"every": 1, "checker": null, "max_tokens": 8, "base_samples": 1000}, "stop": {"patience": null, "min_acceptance": 0.0, "max_drop": null}}','bf62ce02cd36c5b95cf088c34128f034','f89ec5be5669d7d964c19c8e1b9954a3','{"reflectune": "0.1.0", "torch": "2.13.0+cpu", "transformers": "5.19.0", "peft": "0.21.2", "langgraph": "1.2.22", "sqlite-utils": "4.2.1", "graph": "060840373bbcbe29ea40e37f7850a9aa", "config": "bf62ce02cd36c5b95cf088c34128f034", "student.model": "dfb25c6a7d36fe5942d340ddb39fd604", "teacher.path": "0e958b0b56025dcaeef8fe25ea0c37f2"}','finished',0,5166404617713620169);
CREATE TABLE samples (
            id TEXT PRIMARY KEY,
            position INTEGER NOT NULL UNIQUE,
            source_hash TEXT NOT NULL,
            split TEXT NOT NULL CHECK (split IN ('train', 'holdout')),
            meta TEXT NOT NULL
        , seal INTEGER) STRICT;
INSERT INTO "samples" VALUES('fc32fdfa52268e0e',0,'2fa5b1c52c9b1db82747c1d9130f56ee','train','{}',4126686519541793533);
INSERT INTO "samples" VALUES('6da00855ddfead12',1,'82d6a58209d77cb1a569c6cdd08140e9','holdout','{}',3928193155366539843);
INSERT INTO "samples" VALUES('5d2c1c3f480e9cc9',2,'c0543c98d13fe9ce2233382fed4d3e5a','train','{}',3399481422333626379);
INSERT INTO "samples" VALUES('e73b86bce46daadc',3,'a01106c32a7c7907fb6ca1ff2b06e0c7','train','{}',7555553893986836833);
INSERT INTO "samples" VALUES('8876d1af47ffdc16',4,'6e34633d389524da8a4effff534d6b68','holdout','{}',7962561541096268304);
INSERT INTO "samples" VALUES('868bc037f121549b',5,'5fde59676a224fd883402728ee719292','train','{}',4396366466542434792);
INSERT INTO "samples" VALUES('17b6b023357b8d6e',6,'271928b43dda2742852c099aad882b34','train','{}',4574224929653787159);
INSERT INTO "samples" VALUES('0ac1a91ec4485912',7,'c392e5d02efde02d8e749e2f2b12146f','train','{}',2439796488619052326);
INSERT INTO "samples" VALUES('77318010aae8f7d3',8,'f57e4774d3d334b56b7c013de8501e2b','train','{}',4080597086410747185);
INSERT INTO "samples" VALUES('88ff6b0a7e71e584',9,'2404ac06286e56d7aa62ea0a7bf3e821','train','{}',5516388642496683612);
INSERT INTO "samples" VALUES('a380be64fdd6ae7f',10,'4ceeb84645810215ca41541d146e50ee','train','{}',1546099584864728603);
INSERT INTO "samples" VALUES('c6455968d18bd912',11,'989c51b5b611d2ce34927a53c5802825','train','{}',8211028715908420784);
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
INSERT INTO "scores" VALUES('079612f89de8374666aac26939570483','s0','instruction_alone',-1.12499273300170898437e+02,20,'ok',0,7978478655980752562);
INSERT INTO "scores" VALUES('079612f89de8374666aac26939570483','s0','instruction_given_response',-1.22837246417999267577e+02,20,'ok',0,4151631013925493254);
INSERT INTO "scores" VALUES('079612f89de8374666aac26939570483','s0','response_alone',-2.56523234367370605462e+02,43,'ok',0,7971517191534539633);
INSERT INTO "scores" VALUES('079612f89de8374666aac26939570483','s0','response_given_instruction',-2.59835983276367187499e+02,43,'ok',0,4547127555090388556);
INSERT INTO "scores" VALUES('079612f89de8374666aac26939570483','s1','response_alone',-2.50467761039733886711e+02,43,'ok',0,4444495847497769084);
INSERT INTO "scores" VALUES('079612f89de8374666aac26939570483','s1','response_given_instruction',-2.50531724929809570309e+02,43,'ok',0,6575952401156309291);
INSERT INTO "scores" VALUES('07f3fd91626699d5613c5434257b8171','s0','instruction_alone',-2.27321782588958740231e+02,38,'ok',0,3882375908530544523);
INSERT INTO "scores" VALUES('07f3fd91626699d5613c5434257b8171','s0','instruction_given_response',-2.30988325119018554697e+02,38,'ok',0,9013503912004310909);
INSERT INTO "scores" VALUES('0ddbaec9ba54630df71de36b0d0b91ab','s0','instruction_alone',-1.11577991485595703121e+02,20,'ok',0,5189654435133612624);
INSERT INTO "scores" VALUES('0ddbaec9ba54630df71de36b0d0b91ab','s0','instruction_given_response',-1.22216969490051269526e+02,20,'ok',0,6809862435575919080);
INSERT INTO "scores" VALUES('0ddbaec9ba54630df71de36b0d0b91ab','s0','response_alone',-2.54730445861816406243e+02,43,'ok',0,2815330193267438775);
INSERT INTO "scores" VALUES('0ddbaec9ba54630df71de36b0d0b91ab','s0','response_given_instruction',-2.59282779216766357411e+02,43,'ok',0,4763466936106334093);
INSERT INTO "scores" VALUES('0ddbaec9ba54630df71de36b0d0b91ab','s1','response_alone',-2.4904172372817993163e+02,43,'ok',0,1060052938793400070);
INSERT INTO "scores" VALUES('0ddbaec9ba54630df71de36b0d0b91ab','s1','response_given_instruction',-2.50114282608032226554e+02,43,'ok',0,5884532648949701864);
INSERT INTO "scores" VALUES('1241caf657e7cf12ce5960755ef92390','s1','instruction_alone',-2.24828027248382568349e+02,38,'ok',0,278363102063616739);
INSERT INTO "scores" VALUES('1241caf657e7cf12ce5960755ef92390','s1','instruction_given_response',-2.26960802555084228526e+02,38,'ok',0,1586447652526849988);
INSERT INTO "scores" VALUES('16a3fd79733e0e69a8d9cd74849c5db8','s0','instruction_alone',-1.11008347988128662107e+02,19,'ok',0,7513875658383839968);
INSERT INTO "scores" VALUES('16a3fd79733e0e69a8d9cd74849c5db8','s0','instruction_given_response',-1.1408993959426879883e+02,19,'ok',0,105902720822746983);
INSERT INTO "scores" VALUES('16a3fd79733e0e69a8d9cd74849c5db8','s0','response_alone',-7.71395421028137207031e+01,13,'ok',0,1336154054499997153);
INSERT INTO "scores" VALUES('16a3fd79733e0e69a8d9cd74849c5db8','s0','response_given_instruction',-7.61764788627624511718e+01,13,'ok',0,4199357275439525352);
INSERT INTO "scores" VALUES('1b92261b4526977cda155fc66a3b062a','s0','instruction_alone',-1.13079006195068359379e+02,19,'ok',0,2591109864663542974);
INSERT INTO "scores" VALUES('1b92261b4526977cda155fc66a3b062a','s0','instruction_given_response',-1.14465999603271484375e+02,19,'ok',0,3265814763024916909);
INSERT INTO "scores" VALUES('1b92261b4526977cda155fc66a3b062a','s0','response_alone',-7.41017127037048339843e+01,13,'ok',0,2885344230651217678);
INSERT INTO "scores" VALUES('1b92261b4526977cda155fc66a3b062a','s0','response_given_instruction',-7.77867588996887207022e+01,13,'ok',0,8978554656465537140);
INSERT INTO "scores" VALUES('2c98ebf9e7ca55f1aa1c2cf70add2efb','s1','instruction_alone',-1.16231500625610351562e+02,21,'ok',0,2893991633275629236);
INSERT INTO "scores" VALUES('2c98ebf9e7ca55f1aa1c2cf70add2efb','s1','instruction_given_response',-1.25330561637878417973e+02,21,'ok',0,8493562091016365591);
INSERT INTO "scores" VALUES('2c98ebf9e7ca55f1aa1c2cf70add2efb','s1','response_alone',-1.29609662532806396489e+02,22,'ok',0,991655039687204761);
INSERT INTO "scores" VALUES('2c98ebf9e7ca55f1aa1c2cf70add2efb','s1','response_given_instruction',-1.29333718776702880862e+02,22,'ok',0,7259723167735097226);
INSERT INTO "scores" VALUES('3054aad92fca5dc9fdcffd9fa2525e22','s1','response_alone',-1.22082360744476318362e+02,21,'ok',0,753210918962079799);
INSERT INTO "scores" VALUES('3054aad92fca5dc9fdcffd9fa2525e22','s1','response_given_instruction',-1.22152439594268798824e+02,21,'ok',0,6207630380777383818);
INSERT INTO "scores" VALUES('3364383a82ecd68016d5dd9007d97931','s0','instruction_alone',-1.11958491325378417969e+02,20,'ok',0,6159351842250289123);
INSERT INTO "scores" VALUES('3364383a82ecd68016d5dd9007d97931','s0','instruction_given_response',-1.21858638286590576166e+02,20,'ok',0,5897134249665407564);
INSERT INTO "scores" VALUES('3364383a82ecd68016d5dd9007d97931','s0','response_alone',-1.23840419292449951168e+02,21,'ok',0,6004389227040862781);
INSERT INTO "scores" VALUES('3364383a82ecd68016d5dd9007d97931','s0','response_given_instruction',-1.25575276851654052737e+02,21,'ok',0,6634818022501410972);
INSERT INTO "scores" VALUES('3eb4a3240f63d1c4182db8928adcb5d9','s1','instruction_alone',-1.10514928340911865233e+02,20,'ok',0,4620149086754987578);
INSERT INTO "scores" VALUES('3eb4a3240f63d1c4182db8928adcb5d9','s1','instruction_given_response',-1.20570108413696289065e+02,20,'ok',0,5763527443501935710);
INSERT INTO "scores" VALUES('3eb4a3240f63d1c4182db8928adcb5d9','s1','response_alone',-1.21771913528442382807e+02,21,'ok',0,3389777847459224569);
INSERT INTO "scores" VALUES('3eb4a3240f63d1c4182db8928adcb5d9','s1','response_given_instruction',-1.22645054817199707032e+02,21,'ok',0,4340609759637299550);
INSERT INTO "scores" VALUES('3fab7625980361cb322a64d1a9e5ced5','s0','instruction_alone',-1.17637783527374267583e+02,21,'ok',0,6794932346665567168);
INSERT INTO "scores" VALUES('3fab7625980361cb322a64d1a9e5ced5','s0','instruction_given_response',-1.27723056793212890629e+02,21,'ok',0,7075399498175640937);
INSERT INTO "scores" VALUES('3fab7625980361cb322a64d1a9e5ced5','s0','response_alone',-2.61086589336395263677e+02,44,'ok',0,7393361683886976452);
INSERT INTO "scores" VALUES('3fab7625980361cb322a64d1a9e5ced5','s0','response_given_instruction',-2.65420064449310302736e+02,44,'ok',0,638090731953235078);
INSERT INTO "scores" VALUES('3fab7625980361cb322a64d1a9e5ced5','s1','instruction_alone',-1.16847350120544433592e+02,21,'ok',0,6890777157360427879);
INSERT INTO "scores" VALUES('3fab7625980361cb322a64d1a9e5ced5','s1','instruction_given_response',-1.25394892215728759766e+02,21,'ok',0,1516963138584204186);
INSERT INTO "scores" VALUES('3fab7625980361cb322a64d1a9e5ced5','s1','response_alone',-2.55379169464111328131e+02,44,'ok',0,1594534766176247020);
INSERT INTO "scores" VALUES('3fab7625980361cb322a64d1a9e5ced5','s1','response_given_instruction',-2.56503369331359863279e+02,44,'ok',0,977945356986792510);
INSERT INTO "scores" VALUES('3fbcd7d95cf6c71fffa20e8b1124f015','s0','instruction_alone',-9.42053790092468261701e+01,16,'ok',0,2492616989311624656);
INSERT INTO "scores" VALUES('3fbcd7d95cf6c71fffa20e8b1124f015','s0','instruction_given_response',-96.3282151222229,16,'ok',0,8385662533536713221);
INSERT INTO "scores" VALUES('3fbcd7d95cf6c71fffa20e8b1124f015','s0','response_alone',-5.92538018226623535138e+01,10,'ok',0,5379215765856347043);
INSERT INTO "scores" VALUES('3fbcd7d95cf6c71fffa20e8b1124f015','s0','response_given_instruction',-5.96709051132202148446e+01,10,'ok',0,9047678581717313298);
INSERT INTO "scores" VALUES('45dfaf984c639ff577b43701ae22ea64','s0','instruction_alone',-1.11526071548461914062e+02,20,'ok',0,3973172149298597878);
INSERT INTO "scores" VALUES('45dfaf984c639ff577b43701ae22ea64','s0','instruction_given_response',-1.22204545974731445309e+02,20,'ok',0,1561376137352717321);
INSERT INTO "scores" VALUES('45dfaf984c639ff577b43701ae22ea64','s0','response_alone',-2.55787317752838134761e+02,43,'ok',0,8599412945517091553);
INSERT INTO "scores" VALUES('45dfaf984c639ff577b43701ae22ea64','s0','response_given_instruction',-2.60036072254180908205e+02,43,'ok',0,1466897172682190199);
INSERT INTO "scores" VALUES('45dfaf984c639ff577b43701ae22ea64','s1','instruction_alone',-1.10514928340911865233e+02,20,'ok',0,3248171930763936677);
INSERT INTO "scores" VALUES('45dfaf984c639ff577b43701ae22ea64','s1','instruction_given_response',-1.19930003643035888673e+02,20,'ok',0,8229980266517393269);
INSERT INTO "scores" VALUES('45dfaf984c639ff577b43701ae22ea64','s1','response_alone',-2.49984498977661132815e+02,43,'ok',0,4041865083370275825);
INSERT INTO "scores" VALUES('45dfaf984c639ff577b43701ae22ea64','s1','response_given_instruction',-251.053786277771,43,'ok',0,1906637731169261520);
INSERT INTO "scores" VALUES('4e29e51949a380f424adc4000339fa2f','s1','instruction_alone',-1.10968895912170410159e+02,20,'ok',0,8605426543137795492);
INSERT INTO "scores" VALUES('4e29e51949a380f424adc4000339fa2f','s1','instruction_given_response',-1.2047684717178344726e+02,20,'ok',0,1494166719347600052);
INSERT INTO "scores" VALUES('4ea59ae2137072d68f0f6ed4b64f5efc','s0','instruction_alone',-1.1873265361785888672e+02,21,'ok',0,2573902458282617249);
INSERT INTO "scores" VALUES('4ea59ae2137072d68f0f6ed4b64f5efc','s0','instruction_given_response',-1.28177011966705322264e+02,21,'ok',0,3947160046683047118);
INSERT INTO "scores" VALUES('4ea59ae2137072d68f0f6ed4b64f5efc','s0','response_alone',-1.29826172828674316409e+02,22,'ok',0,2637945725241784365);
INSERT INTO "scores" VALUES('4ea59ae2137072d68f0f6ed4b64f5efc','s0','response_given_instruction',-1.31379282951354980468e+02,22,'ok',0,2344755439906896258);
INSERT INTO "scores" VALUES('4ea59ae2137072d68f0f6ed4b64f5efc','s1','response_alone',-1.28047543525695800776e+02,22,'ok',0,6585974010826809801);
INSERT INTO "scores" VALUES('4ea59ae2137072d68f0f6ed4b64f5efc','s1','response_given_instruction',-1.27805729866027832034e+02,22,'ok',0,4085493519900653670);
INSERT INTO "scores" VALUES('65245323aebacc0c92ea57a0a905e214','s0','response_alone',-1.23012336730957031253e+02,21,'ok',0,6111761027408692641);
INSERT INTO "scores" VALUES('65245323aebacc0c92ea57a0a905e214','s0','response_given_instruction',-1.24840878486633300782e+02,21,'ok',0,8770386634809550860);
INSERT INTO "scores" VALUES('69e37bbabbea14c0e0f64587e89f772e','s0','instruction_alone',-2.27321782588958740231e+02,38,'ok',0,6743049901181636304);
INSERT INTO "scores" VALUES('69e37bbabbea14c0e0f64587e89f772e','s0','instruction_given_response',-2.30942773342132568348e+02,38,'ok',0,2592438433652912197);
INSERT INTO "scores" VALUES('69e37bbabbea14c0e0f64587e89f772e','s0','response_alone',-8.30412521362304687465e+01,14,'ok',0,992374516751320351);
INSERT INTO "scores" VALUES('69e37bbabbea14c0e0f64587e89f772e','s0','response_given_instruction',-8.38592028617858886718e+01,14,'ok',0,7246073448510312549);
INSERT INTO "scores" VALUES('69e37bbabbea14c0e0f64587e89f772e','s1','instruction_alone',-2.24828027248382568349e+02,38,'ok',0,7284847897076219306);
INSERT INTO "scores" VALUES('69e37bbabbea14c0e0f64587e89f772e','s1','instruction_given_response',-2.26925765037536621084e+02,38,'ok',0,2553883268862725437);
INSERT INTO "scores" VALUES('69e37bbabbea14c0e0f64587e89f772e','s1','response_alone',-8.26543736457824707031e+01,14,'ok',0,341797679633367065);
INSERT INTO "scores" VALUES('69e37bbabbea14c0e0f64587e89f772e','s1','response_given_instruction',-82.9845757484436,14,'ok',0,6091519390207389646);
INSERT INTO "scores" VALUES('6b5d104ae0ab3d213aaa13c60857f308','s0','instruction_alone',-1.12039131164550781255e+02,20,'ok',0,7276415992418187978);
INSERT INTO "scores" VALUES('6b5d104ae0ab3d213aaa13c60857f308','s0','instruction_given_response',-1.22014944076538085933e+02,20,'ok',0,5729836973476066897);
INSERT INTO "scores" VALUES('6b5d104ae0ab3d213aaa13c60857f308','s0','response_alone',-1.23758926391601562497e+02,21,'ok',0,6271330956662635010);
INSERT INTO "scores" VALUES('6b5d104ae0ab3d213aaa13c60857f308','s0','response_given_instruction',-1.24211620807647705078e+02,21,'ok',0,6833879652495116074);
INSERT INTO "scores" VALUES('6d29c302bc0dacd46a61c5b58ff3e5b1','s1','instruction_alone',-1.10414293289184570309e+02,20,'ok',0,61438996087909866);
INSERT INTO "scores" VALUES('6d29c302bc0dacd46a61c5b58ff3e5b1','s1','instruction_given_response',-1.1956933403015136719e+02,20,'ok',0,8696869185167817641);
INSERT INTO "scores" VALUES('6d29c302bc0dacd46a61c5b58ff3e5b1','s1','response_alone',-1.22232016563415527346e+02,21,'ok',0,2045928639661230284);
INSERT INTO "scores" VALUES('6d29c302bc0dacd46a61c5b58ff3e5b1','s1','response_given_instruction',-1.23081991672515869142e+02,21,'ok',0,5972903591140950456);
INSERT INTO "scores" VALUES('6e5c193591443217b165d9905c0ccd45','s0','instruction_alone',-1.18052709579467773437e+02,21,'ok',0,6724684849053552652);
INSERT INTO "scores" VALUES('6e5c193591443217b165d9905c0ccd45','s0','instruction_given_response',-1.27779549121856689447e+02,21,'ok',0,5279504830006245775);
INSERT INTO "scores" VALUES('6e5c193591443217b165d9905c0ccd45','s0','response_alone',-1.30831465244293212893e+02,22,'ok',0,6449787028480299965);
INSERT INTO "scores" VALUES('6e5c193591443217b165d9905c0ccd45','s0','response_given_instruction',-1.31919237613677978518e+02,22,'ok',0,7236726627804044433);
INSERT INTO "scores" VALUES('6e5c193591443217b165d9905c0ccd45','s1','response_alone',-1.29138868331909179682e+02,22,'ok',0,7198978554744165424);
INSERT INTO "scores" VALUES('6e5c193591443217b165d9905c0ccd45','s1','response_given_instruction',-1.28645006656646728512e+02,22,'ok',0,6644564304515698729);
INSERT INTO "scores" VALUES('70f4a53a5f740dd99f7e83399aaed77a','s0','instruction_alone',-9.83573117256164550746e+01,17,'ok',0,8709175068109171365);
INSERT INTO "scores" VALUES('70f4a53a5f740dd99f7e83399aaed77a','s0','instruction_given_response',-1.0045757484436035156e+02,17,'ok',0,1275323819472729900);
INSERT INTO "scores" VALUES('70f4a53a5f740dd99f7e83399aaed77a','s0','response_alone',-6.39890818595886230486e+01,11,'ok',0,4594190311817287904);
INSERT INTO "scores" VALUES('70f4a53a5f740dd99f7e83399aaed77a','s0','response_given_instruction',-6.24426560401916503923e+01,11,'ok',0,489084746801889533);
INSERT INTO "scores" VALUES('746377e8ef6c3920a2e5f3e89fddc079','s1','instruction_alone',-1.0947549295425415039e+02,20,'ok',0,6695844615961651239);
INSERT INTO "scores" VALUES('746377e8ef6c3920a2e5f3e89fddc079','s1','instruction_given_response',-1.2035072755813598633e+02,20,'ok',0,1949233535164494862);
INSERT INTO "scores" VALUES('746377e8ef6c3920a2e5f3e89fddc079','s1','response_alone',-1.21996612548828125004e+02,21,'ok',0,4615892023860461091);
INSERT INTO "scores" VALUES('746377e8ef6c3920a2e5f3e89fddc079','s1','response_given_instruction',-1.23245675563812255863e+02,21,'ok',0,8979214766828249258);
INSERT INTO "scores" VALUES('81cf943b081b6f4a131d0b208afde604','s0','instruction_alone',-1.11958491325378417969e+02,20,'ok',0,3334883688298592403);
INSERT INTO "scores" VALUES('81cf943b081b6f4a131d0b208afde604','s0','instruction_given_response',-1.21046281337738037108e+02,20,'ok',0,8973494094305757690);
INSERT INTO "scores" VALUES('81cf943b081b6f4a131d0b208afde604','s0','response_alone',-2.56187798976898193368e+02,43,'ok',0,7326869392557791368);
INSERT INTO "scores" VALUES('81cf943b081b6f4a131d0b208afde604','s0','response_given_instruction',-2.58969805240631103506e+02,43,'ok',0,676277324347668191);
INSERT INTO "scores" VALUES('81cf943b081b6f4a131d0b208afde604','s1','response_alone',-2.49980830669403076161e+02,43,'ok',0,8042157580279924838);
INSERT INTO "scores" VALUES('81cf943b081b6f4a131d0b208afde604','s1','response_given_instruction',-2.49695030689239501949e+02,43,'ok',0,2382705861792270348);
INSERT INTO "scores" VALUES('89b69cf97dc84b8e8fd253d0291079fe','s0','instruction_alone',-2.26717586994171142571e+02,38,'ok',0,7603489121129959774);
INSERT INTO "scores" VALUES('89b69cf97dc84b8e8fd253d0291079fe','s0','instruction_given_response',-2.28159460067749023429e+02,38,'ok',0,3364197088267606310);
INSERT INTO "scores" VALUES('89b69cf97dc84b8e8fd253d0291079fe','s0','response_alone',-8.30076317787170410173e+01,14,'ok',0,5269659160895606043);
INSERT INTO "scores" VALUES('89b69cf97dc84b8e8fd253d0291079fe','s0','response_given_instruction',-8.23598389625549316423e+01,14,'ok',0,9169917879020726237);
INSERT INTO "scores" VALUES('8b62b99d0c34c854e70f9c58456c91b2','s0','instruction_alone',-2.10482413768768310551e+02,35,'ok',0,8133883140142909534);
INSERT INTO "scores" VALUES('8b62b99d0c34c854e70f9c58456c91b2','s0','instruction_given_response',-2.1284793376922607421e+02,35,'ok',0,8927957532345115506);
INSERT INTO "scores" VALUES('8b62b99d0c34c854e70f9c58456c91b2','s0','response_alone',-6.56692013740539550772e+01,11,'ok',0,498441862718566643);
INSERT INTO "scores" VALUES('8b62b99d0c34c854e70f9c58456c91b2','s0','response_given_instruction',-6.38800783157348632795e+01,11,'ok',0,1019615464956661890);
INSERT INTO "scores" VALUES('8c0a99e94885fbb5a1077453a925c89a','s0','instruction_alone',-1.12499273300170898437e+02,20,'ok',0,7949412380279782497);
INSERT INTO "scores" VALUES('8c0a99e94885fbb5a1077453a925c89a','s0','instruction_given_response',-1.23106354236602783197e+02,20,'ok',0,3500070676269043850);
INSERT INTO "scores" VALUES('8c0a99e94885fbb5a1077453a925c89a','s0','response_alone',-1.23372281551361083983e+02,21,'ok',0,2368592078979298305);
INSERT INTO "scores" VALUES('8c0a99e94885fbb5a1077453a925c89a','s0','response_given_instruction',-1.2566187286376953125e+02,21,'ok',0,4308586650890096566);
INSERT INTO "scores" VALUES('8e4e8fe438d59aedcbd56846ae11a52b','s0','instruction_alone',-2.27243830680847167967e+02,38,'ok',0,2553688614378633542);
INSERT INTO "scores" VALUES('8e4e8fe438d59aedcbd56846ae11a52b','s0','instruction_given_response',-2.30303746700286865239e+02,38,'ok',0,4813723117467406088);
INSERT INTO "scores" VALUES('8e4e8fe438d59aedcbd56846ae11a52b','s0','response_alone',-8.29713521003723144565e+01,14,'ok',0,6405624201875854359);
INSERT INTO "scores" VALUES('8e4e8fe438d59aedcbd56846ae11a52b','s0','response_given_instruction',-8.24305324554443359392e+01,14,'ok',0,2219281290537654489);
INSERT INTO "scores" VALUES('8e4e8fe438d59aedcbd56846ae11a52b','s1','instruction_alone',-2.2312099742889404297e+02,38,'ok',0,3169299928537399032);
INSERT INTO "scores" VALUES('8e4e8fe438d59aedcbd56846ae11a52b','s1','instruction_given_response',-2.25077971458435058585e+02,38,'ok',0,6389404349101077523);
INSERT INTO "scores" VALUES('8e4e8fe438d59aedcbd56846ae11a52b','s1','response_alone',-8.20447802543640136718e+01,14,'ok',0,2698234149767816391);
INSERT INTO "scores" VALUES('8e4e8fe438d59aedcbd56846ae11a52b','s1','response_given_instruction',-8.01393251419067382829e+01,14,'ok',0,4642442202134753186);
INSERT INTO "scores" VALUES('8f8b615e67c9742442547459249b150b','s0','instruction_alone',-1.13079006195068359379e+02,19,'ok',0,7049331630304053713);
INSERT INTO "scores" VALUES('8f8b615e67c9742442547459249b150b','s0','instruction_given_response',-1.14115060329437255858e+02,19,'ok',0,1692561239531962208);
INSERT INTO "scores" VALUES('8f8b615e67c9742442547459249b150b','s0','response_alone',-2.54415495395660400394e+02,43,'ok',0,7869244862347560683);
INSERT INTO "scores" VALUES('8f8b615e67c9742442547459249b150b','s0','response_given_instruction',-2.58451644897460937506e+02,43,'ok',0,5755392754461885887);
INSERT INTO "scores" VALUES('8f8b615e67c9742442547459249b150b','s1','instruction_alone',-1.10893721580505371098e+02,19,'ok',0,3849868804268852761);
INSERT INTO "scores" VALUES('8f8b615e67c9742442547459249b150b','s1','instruction_given_response',-1.1136401128768920898e+02,19,'ok',0,4858786566088734005);
INSERT INTO "scores" VALUES('8f8b615e67c9742442547459249b150b','s1','response_alone',-2.48478157043457031243e+02,43,'ok',0,2968243116945700402);
INSERT INTO "scores" VALUES('8f8b615e67c9742442547459249b150b','s1','response_given_instruction',-2.50268454551696777348e+02,43,'ok',0,3900059789546886898);
INSERT INTO "scores" VALUES('91266e1cbdfbe15a8d5cf0330ca0b442','s0','instruction_alone',-1.11293112754821777344e+02,20,'ok',0,9066092353094285701);
INSERT INTO "scores" VALUES('91266e1cbdfbe15a8d5cf0330ca0b442','s0','instruction_given_response',-1.2109984827041625977e+02,20,'ok',0,3867280559493156079);
INSERT INTO "scores" VALUES('91266e1cbdfbe15a8d5cf0330ca0b442','s0','response_alone',-2.55772206783294677725e+02,43,'ok',0,7202992141951107303);
INSERT INTO "scores" VALUES('91266e1cbdfbe15a8d5cf0330ca0b442','s0','response_given_instruction',-2.58774065017700195313e+02,43,'ok',0,7594616872476102427);
INSERT INTO "scores" VALUES('91266e1cbdfbe15a8d5cf0330ca0b442','s1','instruction_alone',-1.10271784305572509768e+02,20,'ok',0,387446184273453792);
INSERT INTO "scores" VALUES('91266e1cbdfbe15a8d5cf0330ca0b442','s1','instruction_given_response',-1.18924758434295654298e+02,20,'ok',0,2424221417462415640);
INSERT INTO "scores" VALUES('91266e1cbdfbe15a8d5cf0330ca0b442','s1','response_alone',-2.50134869575500488284e+02,43,'ok',0,7603080814809962842);
INSERT INTO "scores" VALUES('91266e1cbdfbe15a8d5cf0330ca0b442','s1','response_given_instruction',-2.49800243377685546883e+02,43,'ok',0,1331116339739795725);
INSERT INTO "scores" VALUES('9891659b24e849471db784ec7b40dc59','s0','instruction_alone',-1.11577991485595703121e+02,20,'ok',0,1275116969384160070);
INSERT INTO "scores" VALUES('9891659b24e849471db784ec7b40dc59','s0','instruction_given_response',-1.22798121929168701171e+02,20,'ok',0,258384509815786251);
INSERT INTO "scores" VALUES('9891659b24e849471db784ec7b40dc59','s0','response_alone',-1.23629614830017089846e+02,21,'ok',0,5334390257942294766);
INSERT INTO "scores" VALUES('9891659b24e849471db784ec7b40dc59','s0','response_given_instruction',-1.26070914745330810548e+02,21,'ok',0,5516582629895787926);
INSERT INTO "scores" VALUES('9b6fb2c81876e469e45325b49d4b4bc2','s0','instruction_alone',-1.1873265361785888672e+02,21,'ok',0,962079646728125966);
INSERT INTO "scores" VALUES('9b6fb2c81876e469e45325b49d4b4bc2','s0','instruction_given_response',-1.28381038188934326171e+02,21,'ok',0,2529076761879523485);
INSERT INTO "scores" VALUES('9e103bb6803b8cbadc87001d0ca22f04','s0','instruction_alone',-1.18052709579467773437e+02,21,'ok',0,8458860617175938226);
INSERT INTO "scores" VALUES('9e103bb6803b8cbadc87001d0ca22f04','s0','instruction_given_response',-1.28108949661254882816e+02,21,'ok',0,7340833417715530685);
INSERT INTO "scores" VALUES('a2f9c32b87cbed190ba9c10fb15df896','s1','response_alone',-1.22420926570892333988e+02,21,'ok',0,7693086747210347118);
INSERT INTO "scores" VALUES('a2f9c32b87cbed190ba9c10fb15df896','s1','response_given_instruction',-1.21876575946807861325e+02,21,'ok',0,4072827853261628861);
INSERT INTO "scores" VALUES('a396c1fe4f302930febe54cbc91ec087','s0','instruction_alone',-1.1258259868621826172e+02,20,'ok',0,4965552500396004434);
INSERT INTO "scores" VALUES('a396c1fe4f302930febe54cbc91ec087','s0','instruction_given_response',-1.21962464809417724608e+02,20,'ok',0,2634328871804045551);
INSERT INTO "scores" VALUES('a396c1fe4f302930febe54cbc91ec087','s0','response_alone',-1.23827991962432861329e+02,21,'ok',0,4320540881756896935);
INSERT INTO "scores" VALUES('a396c1fe4f302930febe54cbc91ec087','s0','response_given_instruction',-1.24787989616394042965e+02,21,'ok',0,2124270878592357842);
INSERT INTO "scores" VALUES('ad54d02605c7c9949e93c741cd27c052','s0','instruction_alone',-1.02312886238098144531e+02,17,'ok',0,5239927316113091063);
INSERT INTO "scores" VALUES('ad54d02605c7c9949e93c741cd27c052','s0','instruction_given_response',-1.03725698947906494137e+02,17,'ok',0,7468693917217939645);
INSERT INTO "scores" VALUES('ad54d02605c7c9949e93c741cd27c052','s0','response_alone',-6.67484235763549804687e+01,11,'ok',0,8268503174370774539);
INSERT INTO "scores" VALUES('ad54d02605c7c9949e93c741cd27c052','s0','response_given_instruction',-6.66857700347900390642e+01,11,'ok',0,669176908334620968);
INSERT INTO "scores" VALUES('bcf308d6866f922bba6d47d9128ca003','s0','instruction_alone',-1.13079006195068359379e+02,19,'ok',0,3527451846113893436);
INSERT INTO "scores" VALUES('bcf308d6866f922bba6d47d9128ca003','s0','instruction_given_response',-1.14157873630523681645e+02,19,'ok',0,7192698888443915466);
INSERT INTO "scores" VALUES('bcf308d6866f922bba6d47d9128ca003','s0','response_alone',-2.55171283245086669925e+02,43,'ok',0,1995255626872785950);
INSERT INTO "scores" VALUES('bcf308d6866f922bba6d47d9128ca003','s0','response_given_instruction',-2.59500803947448730477e+02,43,'ok',0,7446843036288957695);
INSERT INTO "scores" VALUES('bcf308d6866f922bba6d47d9128ca003','s1','instruction_alone',-1.10893721580505371098e+02,19,'ok',0,8479489940526246219);
INSERT INTO "scores" VALUES('bcf308d6866f922bba6d47d9128ca003','s1','instruction_given_response',-1.11411724567413330079e+02,19,'ok',0,3180132872459722859);
INSERT INTO "scores" VALUES('bcf308d6866f922bba6d47d9128ca003','s1','response_alone',-2.48982288837432861336e+02,43,'ok',0,3440787714047233566);
INSERT INTO "scores" VALUES('bcf308d6866f922bba6d47d9128ca003','s1','response_given_instruction',-2.5112567710876464843e+02,43,'ok',0,81050418673413078);
INSERT INTO "scores" VALUES('bead71c1a81ae11cd93a25acc83c983a','s0','instruction_alone',-1.12039131164550781255e+02,20,'ok',0,5873765478685662563);
INSERT INTO "scores" VALUES('bead71c1a81ae11cd93a25acc83c983a','s0','instruction_given_response',-1.21892777919769287105e+02,20,'ok',0,3051507723463563308);
INSERT INTO "scores" VALUES('bead71c1a81ae11cd93a25acc83c983a','s0','response_alone',-2.55618642330169677724e+02,43,'ok',0,6873667105709620421);
INSERT INTO "scores" VALUES('bead71c1a81ae11cd93a25acc83c983a','s0','response_given_instruction',-2.58154957771301269537e+02,43,'ok',0,1534337426401511770);
INSERT INTO "scores" VALUES('bead71c1a81ae11cd93a25acc83c983a','s1','instruction_alone',-1.10968895912170410159e+02,20,'ok',0,9184841316066808321);
INSERT INTO "scores" VALUES('bead71c1a81ae11cd93a25acc83c983a','s1','instruction_given_response',-1.2037783288955688477e+02,20,'ok',0,3649032212645916622);
INSERT INTO "scores" VALUES('bead71c1a81ae11cd93a25acc83c983a','s1','response_alone',-2.49521485328674316414e+02,43,'ok',0,2680272090244364741);
INSERT INTO "scores" VALUES('bead71c1a81ae11cd93a25acc83c983a','s1','response_given_instruction',-2.49474553585052490241e+02,43,'ok',0,5944965939351859897);
INSERT INTO "scores" VALUES('c22cb93121ea3a03e7954e8f2c5ebdc7','s0','instruction_alone',-1.16920702457427978511e+02,21,'ok',0,8654553961655112583);
INSERT INTO "scores" VALUES('c22cb93121ea3a03e7954e8f2c5ebdc7','s0','instruction_given_response',-1.27469803333282470701e+02,21,'ok',0,6095108099662804393);
INSERT INTO "scores" VALUES('c22cb93121ea3a03e7954e8f2c5ebdc7','s0','response_alone',-2.58971058368682861328e+02,44,'ok',0,6826850187183177737);
INSERT INTO "scores" VALUES('c22cb93121ea3a03e7954e8f2c5ebdc7','s0','response_given_instruction',-2.64504405975341796877e+02,44,'ok',0,7505370552881079763);
INSERT INTO "scores" VALUES('c22cb93121ea3a03e7954e8f2c5ebdc7','s1','instruction_alone',-1.16231500625610351562e+02,21,'ok',0,5306517386109944079);
INSERT INTO "scores" VALUES('c22cb93121ea3a03e7954e8f2c5ebdc7','s1','instruction_given_response',-1.25293767929077148437e+02,21,'ok',0,812686902572704603);
INSERT INTO "scores" VALUES('c22cb93121ea3a03e7954e8f2c5ebdc7','s1','response_alone',-2.53666127681732177733e+02,44,'ok',0,2645570866863424745);
INSERT INTO "scores" VALUES('c22cb93121ea3a03e7954e8f2c5ebdc7','s1','response_given_instruction',-2.55891748905181884757e+02,44,'ok',0,665744856338109685);
INSERT INTO "scores" VALUES('d6f7ed3353f90df6c42996e089e9d7b7','s1','response_alone',-1.21268164157867431641e+02,21,'ok',0,6531132540340807037);
INSERT INTO "scores" VALUES('d6f7ed3353f90df6c42996e089e9d7b7','s1','response_given_instruction',-1.21966069221496582026e+02,21,'ok',0,8192199058183745144);
INSERT INTO "scores" VALUES('d7eb8e2f466503ec07d53b6e898366e2','s0','instruction_alone',-1.1136945867538452148e+02,20,'ok',0,5750117675801098068);
INSERT INTO "scores" VALUES('d7eb8e2f466503ec07d53b6e898366e2','s0','instruction_given_response',-1.20614363670349121092e+02,20,'ok',0,903503923628855292);
INSERT INTO "scores" VALUES('d7eb8e2f466503ec07d53b6e898366e2','s0','response_alone',-2.55650031089782714833e+02,43,'ok',0,3709189099834446049);
INSERT INTO "scores" VALUES('d7eb8e2f466503ec07d53b6e898366e2','s0','response_given_instruction',-2.59576767921447753911e+02,43,'ok',0,5399832473620651469);
INSERT INTO "scores" VALUES('d7eb8e2f466503ec07d53b6e898366e2','s1','instruction_alone',-1.10414293289184570309e+02,20,'ok',0,8531222538082524579);
INSERT INTO "scores" VALUES('d7eb8e2f466503ec07d53b6e898366e2','s1','instruction_given_response',-1.18345441818237304685e+02,20,'ok',0,1344929346526056163);
INSERT INTO "scores" VALUES('d7eb8e2f466503ec07d53b6e898366e2','s1','response_alone',-2.49666191101074218749e+02,43,'ok',0,8118786727335250866);
INSERT INTO "scores" VALUES('d7eb8e2f466503ec07d53b6e898366e2','s1','response_given_instruction',-2.50621842861175537098e+02,43,'ok',0,1524813217382370592);
INSERT INTO "scores" VALUES('e41c05ae2b844593c5c1a122104434a6','s0','instruction_alone',-1.1258259868621826172e+02,20,'ok',0,5956483976126813203);
INSERT INTO "scores" VALUES('e41c05ae2b844593c5c1a122104434a6','s0','instruction_given_response',-1.21750625610351562503e+02,20,'ok',0,8358743427115992018);
INSERT INTO "scores" VALUES('e41c05ae2b844593c5c1a122104434a6','s0','response_alone',-2.56509245395660400389e+02,43,'ok',0,4688664735781578757);
INSERT INTO "scores" VALUES('e41c05ae2b844593c5c1a122104434a6','s0','response_given_instruction',-2.58419237136840820303e+02,43,'ok',0,1426515969694029737);
INSERT INTO "scores" VALUES('e41c05ae2b844593c5c1a122104434a6','s1','response_alone',-2.5062603378295898438e+02,43,'ok',0,923694744828888979);
INSERT INTO "scores" VALUES('e41c05ae2b844593c5c1a122104434a6','s1','response_given_instruction',-2.49174547195434570312e+02,43,'ok',0,168433051724528977);
INSERT INTO "scores" VALUES('e4e1b9ea1513ec8c02c4328d231b6ba0','s1','instruction_alone',-1.16847350120544433592e+02,21,'ok',0,28100716338802771);
INSERT INTO "scores" VALUES('e4e1b9ea1513ec8c02c4328d231b6ba0','s1','instruction_given_response',-1.25519649505615234371e+02,21,'ok',0,8188501438220900717);
INSERT INTO "scores" VALUES('e4e1b9ea1513ec8c02c4328d231b6ba0','s1','response_alone',-1.28361806392669677736e+02,22,'ok',0,4372264146234759557);
INSERT INTO "scores" VALUES('e4e1b9ea1513ec8c02c4328d231b6ba0','s1','response_given_instruction',-1.28440578460693359378e+02,22,'ok',0,9038749536388509898);
INSERT INTO "scores" VALUES('e84644eb4b50a07ab0e99e8bf1a3a53c','s1','instruction_alone',-1.10271784305572509768e+02,20,'ok',0,4160199189295131249);
INSERT INTO "scores" VALUES('e84644eb4b50a07ab0e99e8bf1a3a53c','s1','instruction_given_response',-1.1951565361022949219e+02,20,'ok',0,5580438471352484675);
INSERT INTO "scores" VALUES('e84644eb4b50a07ab0e99e8bf1a3a53c','s1','response_alone',-1.21685910224914550781e+02,21,'ok',0,1890189170678988546);
INSERT INTO "scores" VALUES('e84644eb4b50a07ab0e99e8bf1a3a53c','s1','response_given_instruction',-1.21933739662170410151e+02,21,'ok',0,8145904178876280357);
INSERT INTO "scores" VALUES('e880a78fd5919ce3c33f173a38d003c5','s0','instruction_alone',-1.26496032238006591793e+02,21,'ok',0,606207153524572139);
INSERT INTO "scores" VALUES('e880a78fd5919ce3c33f173a38d003c5','s0','instruction_given_response',-1.25997069358825683591e+02,21,'ok',0,9091935387878758190);
INSERT INTO "scores" VALUES('e880a78fd5919ce3c33f173a38d003c5','s0','response_alone',-90.5303144454956,15,'ok',0,6205085684237021861);
INSERT INTO "scores" VALUES('e880a78fd5919ce3c33f173a38d003c5','s0','response_given_instruction',-8.92806348800659179722e+01,15,'ok',0,7274372893826646572);
INSERT INTO "scores" VALUES('f0de373e7ac4525919191ed593af4536','s0','instruction_alone',-1.10278288364410400387e+02,20,'ok',0,5359132638396633457);
INSERT INTO "scores" VALUES('f0de373e7ac4525919191ed593af4536','s0','instruction_given_response',-1.21560680866241455078e+02,20,'ok',0,2444740900468078396);
INSERT INTO "scores" VALUES('f0de373e7ac4525919191ed593af4536','s0','response_alone',-2.539857163429260254e+02,43,'ok',0,266044930214915250);
INSERT INTO "scores" VALUES('f0de373e7ac4525919191ed593af4536','s0','response_given_instruction',-2.59544322967529296876e+02,43,'ok',0,6893233322060880169);
INSERT INTO "scores" VALUES('f0de373e7ac4525919191ed593af4536','s1','instruction_alone',-1.0947549295425415039e+02,20,'ok',0,6112603463835700530);
INSERT INTO "scores" VALUES('f0de373e7ac4525919191ed593af4536','s1','instruction_given_response',-1.19411840915679931638e+02,20,'ok',0,2169601654374349264);
INSERT INTO "scores" VALUES('f0de373e7ac4525919191ed593af4536','s1','response_alone',-2.48526514530181884764e+02,43,'ok',0,7997502284662919190);
INSERT INTO "scores" VALUES('f0de373e7ac4525919191ed593af4536','s1','response_given_instruction',-2.50633752346038818359e+02,43,'ok',0,7373058073927640950);
INSERT INTO "scores" VALUES('fb3c1581bdd7f3be488698cd1633202d','s0','response_alone',-1.23669492244720458985e+02,21,'ok',0,3259271077946087657);
INSERT INTO "scores" VALUES('fb3c1581bdd7f3be488698cd1633202d','s0','response_given_instruction',-1.24882056713104248044e+02,21,'ok',0,3350479959668617549);
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
INSERT INTO "students" VALUES('s1',1,'/world/student',NULL,'adapters/round-01','5153f8c925ee29751ab11dd77991dbff','s0','{"train_loss": 5.99929141998291, "steps": 1, "tokens": 515, "target_tokens": 264, "pairs": 6, "left_out": 0, "seconds": 1.5562363029966946}',1910971690258673690);
INSERT INTO "students" VALUES('s2',2,'/world/student',NULL,'adapters/round-02','78bfb87a7fba8c927d8b53ae009347d8','s0','{"train_loss": 6.001474142074585, "steps": 2, "tokens": 691, "target_tokens": 354, "pairs": 8, "left_out": 0, "seconds": 1.4280488309959765}',611039404630391342);
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
            seconds REAL NOT NULL, cached INTEGER NOT NULL DEFAULT 0, seal INTEGER,
            UNIQUE (round, phase, sample_id, candidate, attempt)
        ) STRICT;
INSERT INTO "teacher_calls" VALUES('5d27d4522d10f1abf8edbdd933a45e6b',1,'instruction','fc32fdfa52268e0e',0,1,'recorded','recorded','cc1d372863d1e9cb4a332677aadbd5d3','{"critique": "", "instruction": "List 0 things, attempt 1.", "response": "There are 0 of them after 1 rounds."}','stop','ok',NULL,'',NULL,NULL,NULL,0.0,0,4801565496382245440);
INSERT INTO "teacher_calls" VALUES('d213d1c9f855f8a2d7818d9d611d0c7c',1,'instruction','5d2c1c3f480e9cc9',0,1,'recorded','recorded','ac5ba61ee32020321ebda4f62082a301','{"critique": "", "instruction": "List 2 things, attempt 1.", "response": "There are 2 of them after 1 rounds."}','stop','ok',NULL,'',NULL,NULL,NULL,0.0,0,8617794693926904816);
INSERT INTO "teacher_calls" VALUES('8c5cbb8d210ee7305dae31879f05cfd0',1,'instruction','e73b86bce46daadc',0,1,'recorded','recorded','531b07179ebd1561876641b5a97cbbcc','{"critique": "", "instruction": "List 3 things, attempt 1.", "response": "There are 3 of them after 1 rounds."}','stop','ok',NULL,'',NULL,NULL,NULL,0.0,0,6893625441675286910);
INSERT INTO "teacher_calls" VALUES('9f2830c9469753d94c491fad239e2c24',1,'instruction','868bc037f121549b',0,1,'recorded','recorded','f8323f5004ea46e3322cc5f27cb1474a','{"critique": "", "instruction": "List 5 things, attempt 1.", "response": "There are 5 of them after 1 rounds."}','stop','ok',NULL,'',NULL,NULL,NULL,0.0,0,1556284871430650208);
INSERT INTO "teacher_calls" VALUES('b75bb993fa1a5e3e823cc1ab0886a1fe',1,'instruction','17b6b023357b8d6e',0,1,'recorded','recorded','3b7254b8d20932e880ea290d1535564a','{"critique": "", "instruction": "List 6 things, attempt 1.", "response": "There are 6 of them after 1 rounds."}','stop','ok',NULL,'',NULL,NULL,NULL,0.0,0,8839046739558629604);
INSERT INTO "teacher_calls" VALUES('fef4e2fe891740e4d870cb7b2cb8aa62',1,'instruction','0ac1a91ec4485912',0,1,'recorded','recorded','67ed0e987f16f468d71b37c380803c73','{"critique": "", "instruction": "List 7 things, attempt 1.", "response": "There are 7 of them after 1 rounds."}','stop','ok',NULL,'',NULL,NULL,NULL,0.0,0,2627084667840910838);
INSERT INTO "teacher_calls" VALUES('935103478e7ef667b661883080e12b76',1,'instruction','77318010aae8f7d3',0,1,'recorded','recorded','bcffe42067369fecb3044c44776cc812','{"critique": "", "instruction": "List 8 things, attempt 1.", "response": "There are 8 of them after 1 rounds."}','stop','ok',NULL,'',NULL,NULL,NULL,0.0,0,615931627399355291);
INSERT INTO "teacher_calls" VALUES('99d1c6f5a28e593dc2f852c2952e8547',1,'instruction','88ff6b0a7e71e584',0,1,'recorded','recorded','3a2f61e91832adaede6c89b6d91b770d','',NULL,'no-entry','the recording has no entry for this pair',NULL,NULL,NULL,NULL,0.0,0,3682459191911641492);
INSERT INTO "teacher_calls" VALUES('ab4f02104da4177a18358a2f864a99af',1,'instruction','a380be64fdd6ae7f',0,1,'recorded','recorded','07c4d389c11c27630acf475879e947f9','{"critique": "", "instruction": "List 10 things, attempt 1.", "response": "There are 10 of them after 1 rounds."}','stop','ok',NULL,'',NULL,NULL,NULL,0.0,0,8732647990527627960);
INSERT INTO "teacher_calls" VALUES('b3099ee38faf7fc816ebe9e6b744434c',1,'instruction','c6455968d18bd912',0,1,'recorded','recorded','b7ee74f0b82c4491b36ba8640b13594e','{"critique": "", "instruction": "List 11 things, attempt 1.", "response": "There are 11 of them after 1 rounds."}','stop','ok',NULL,'',NULL,NULL,NULL,0.0,0,8505059499194166273);
INSERT INTO "teacher_calls" VALUES('1c123d95251c296e3e8a39fabaeaaeec',1,'response','fc32fdfa52268e0e',0,1,'recorded','recorded','a730495ed56fac5a0ae6ba6e711dcdce','{"critique": "", "response": "Here are 0 things: the first is a thing, number 1 is another."}','stop','ok',NULL,'',NULL,NULL,NULL,0.0,0,1778439720067926560);
INSERT INTO "teacher_calls" VALUES('e1a8977248c932a28acfd2a62571d852',1,'response','5d2c1c3f480e9cc9',0,1,'recorded','recorded','30fc8f43e685c1559b103b2885aea9f9','{"critique": "", "response": "Here are 2 things: the first is a thing, number 1 is another."}','stop','ok',NULL,'',NULL,NULL,NULL,0.0,0,2068554225910965010);
INSERT INTO "teacher_calls" VALUES('1bd4f06a8f7c6260fea4ed45754ebfc1',1,'response','e73b86bce46daadc',0,1,'recorded','recorded','d6e41376ea5c549e4ba0b2aeb1313685','{"critique": "", "response": "Here are 3 things: the first is a thing, number 1 is another."}','stop','ok',NULL,'',NULL,NULL,NULL,0.0,0,1940031250362138566);
INSERT INTO "teacher_calls" VALUES('7c2b6d35dc5446302c20f42610c53e8b',1,'response','868bc037f121549b',0,1,'recorded','recorded','d49d5a27a51ccbd2fea15e31b0bf26ce','{"critique": "", "response": "Here are 5 things: the first is a thing, number 1 is another."}','stop','ok',NULL,'',NULL,NULL,NULL,0.0,0,5355462717840514164);
INSERT INTO "teacher_calls" VALUES('abe89c60066a1ff0a74cd753074aa762',1,'response','17b6b023357b8d6e',0,1,'recorded','recorded','4c13920de436b56233a48d09a0a79194','{"critique": "", "response": "Here are 6 things: the first is a thing, number 1 is another."}','stop','ok',NULL,'',NULL,NULL,NULL,0.0,0,5866449989048242331);
INSERT INTO "teacher_calls" VALUES('1f627823ae876e5ba9a062fd74dee99c',1,'response','0ac1a91ec4485912',0,1,'recorded','recorded','0b94dc5ef49cc66804e2e4358e5a1409','{"critique": "", "response": "Here are 7 things: the first is a thing, number 1 is another."}','stop','ok',NULL,'',NULL,NULL,NULL,0.0,0,9031479600568162313);
INSERT INTO "teacher_calls" VALUES('46ad5a51a4031edebdf9ba8d75c31793',1,'response','77318010aae8f7d3',0,1,'recorded','recorded','93a025db141b413b21a69091ac6736c8','{"critique": "", "response": "Here are 8 things: the first is a thing, number 1 is another."}','stop','ok',NULL,'',NULL,NULL,NULL,0.0,0,1583322144614051820);
INSERT INTO "teacher_calls" VALUES('828b148c26308c0f7fe7ca34a24b0681',1,'response','88ff6b0a7e71e584',0,1,'recorded','recorded','038ffa18530a5aa054bc673c9704b2b9','',NULL,'no-entry','the recording has no entry for this pair',NULL,NULL,NULL,NULL,0.0,0,889640929461771514);
INSERT INTO "teacher_calls" VALUES('cdf301327f567ae305370888a85561fb',1,'response','a380be64fdd6ae7f',0,1,'recorded','recorded','a08b2f127c597eaa6dd1102580cfbe1d','{"critique": "", "response": "Here are 10 things: the first is a thing, number 1 is another."}','stop','ok',NULL,'',NULL,NULL,NULL,0.0,0,3950921550274230742);
INSERT INTO "teacher_calls" VALUES('77c97798d559e7768e6bd86576352f06',1,'response','c6455968d18bd912',0,1,'recorded','recorded','2047b347d6118b884174d224b4f1afc4','{"critique": "", "response": "Here are 11 things: the first is a thing, number 1 is another."}','stop','ok',NULL,'',NULL,NULL,NULL,0.0,0,3242408245580010340);
INSERT INTO "teacher_calls" VALUES('966cffcfa66da5029e292c9cbd8c777f',2,'instruction','fc32fdfa52268e0e',0,1,'recorded','recorded','9cdd858d9c35a98b7fd3865658009e72','{"critique": "", "instruction": "List 0 things, attempt 2.", "response": "There are 0 of them after 2 rounds."}','stop','ok',NULL,'',NULL,NULL,NULL,0.0,0,6600345753924233947);
INSERT INTO "teacher_calls" VALUES('34d0978924ffce379406529ae6e2a977',2,'instruction','5d2c1c3f480e9cc9',0,1,'recorded','recorded','41eefe61acdf436841888c8bc6477287','{"critique": "", "instruction": "List 2 things, attempt 2.", "response": "There are 2 of them after 2 rounds."}','stop','ok',NULL,'',NULL,NULL,NULL,0.0,0,2992137716758555443);
INSERT INTO "teacher_calls" VALUES('c19fbe749880fbf7355745886c0a5949',2,'instruction','e73b86bce46daadc',0,1,'recorded','recorded','4f704674edd6a5d877989bbde4274c48','{"critique": "", "instruction": "List 3 things, attempt 2.", "response": "There are 3 of them after 2 rounds."}','stop','ok',NULL,'',NULL,NULL,NULL,0.0,0,7594175267549291956);
INSERT INTO "teacher_calls" VALUES('4f7ca08ecd73db34bbcee68c5e9c284c',2,'instruction','868bc037f121549b',0,1,'recorded','recorded','7a0efec2375ebd3ba5c0d5c6289a9350','{"critique": "", "instruction": "List 5 things, attempt 2.", "response": "There are 5 of them after 2 rounds."}','stop','ok',NULL,'',NULL,NULL,NULL,0.0,0,412446016943027082);
INSERT INTO "teacher_calls" VALUES('03149213e72958bbb94f78f5247fd9bc',2,'instruction','17b6b023357b8d6e',0,1,'recorded','recorded','36e669371df50f4a367a75e0314dda6a','{"critique": "", "instruction": "List 6 things, attempt 2.", "response": "There are 6 of them after 2 rounds."}','stop','ok',NULL,'',NULL,NULL,NULL,0.0,0,2034164392629065945);
INSERT INTO "teacher_calls" VALUES('9d232e84a99e495301607517b1bd3759',2,'instruction','0ac1a91ec4485912',0,1,'recorded','recorded','86c98d59f1c1b6ba27cd51af2309c6ff','{"critique": "", "instruction": "List 7 things, attempt 2.", "response": "There are 7 of them after 2 rounds."}','stop','ok',NULL,'',NULL,NULL,NULL,0.0,0,7966296503766954358);
INSERT INTO "teacher_calls" VALUES('6095271c74191f5faa7bc6a1d65c7fe2',2,'instruction','77318010aae8f7d3',0,1,'recorded','recorded','60e274ff59ce46ff12d8a30b111653fa','{"critique": "", "instruction": "List 8 things, attempt 2.", "response": "There are 8 of them after 2 rounds."}','stop','ok',NULL,'',NULL,NULL,NULL,0.0,0,3428860177156890708);
INSERT INTO "teacher_calls" VALUES('ca2084d7280efedadce479d33702ca45',2,'instruction','88ff6b0a7e71e584',0,1,'recorded','recorded','b07d9dc9d745950b412339685feb7581','',NULL,'no-entry','the recording has no entry for this pair',NULL,NULL,NULL,NULL,0.0,0,4803662916916394819);
INSERT INTO "teacher_calls" VALUES('47d796d6e469bf61fe36d25d1dfa3695',2,'instruction','a380be64fdd6ae7f',0,1,'recorded','recorded','aee4c1621fc3733ca4e3fb8e0be4abc7','{"critique": "", "instruction": "List 10 things, attempt 2.", "response": "There are 10 of them after 2 rounds."}','stop','ok',NULL,'',NULL,NULL,NULL,0.0,0,4007814958777153988);
INSERT INTO "teacher_calls" VALUES('b7ee9586e930c93d23416fb7c22a0e15',2,'instruction','c6455968d18bd912',0,1,'recorded','recorded','da2c0f59f0b82908b4ac0f18e529bab5','{"critique": "", "instruction": "List 11 things, attempt 2.", "response": "There are 11 of them after 2 rounds."}','stop','ok',NULL,'',NULL,NULL,NULL,0.0,0,2065005569202335066);
INSERT INTO "teacher_calls" VALUES('f3caa318caa8caedfc9cf0ae8a8dbd15',2,'response','fc32fdfa52268e0e',0,1,'recorded','recorded','07cae9e93b9d128c86539ec29e53df84','{"critique": "", "response": "Here are 0 things: the first is a thing, number 2 is another."}','stop','ok',NULL,'',NULL,NULL,NULL,0.0,0,640012843427796368);
INSERT INTO "teacher_calls" VALUES('3cc53cfc43d724dfbb4b1f571d8e0ff7',2,'response','5d2c1c3f480e9cc9',0,1,'recorded','recorded','c1526f3042272d9dcd62ffbfcbecd35c','{"critique": "", "response": "Here are 2 things: the first is a thing, number 2 is another."}','stop','ok',NULL,'',NULL,NULL,NULL,0.0,0,2368477144366776714);
INSERT INTO "teacher_calls" VALUES('2ccfe232c2ee8c98a6acc57d58e34d1c',2,'response','e73b86bce46daadc',0,1,'recorded','recorded','4017ea32cd8e34ef7c76b54145c6176d','{"critique": "", "response": "Here are 3 things: the first is a thing, number 2 is another."}','stop','ok',NULL,'',NULL,NULL,NULL,0.0,0,5234338179159244374);
INSERT INTO "teacher_calls" VALUES('d6e4b55c64fa9e660e86d44b17be1a62',2,'response','868bc037f121549b',0,1,'recorded','recorded','8666eb622d92eb696c835041be33c9bf','{"critique": "", "response": "Here are 5 things: the first is a thing, number 2 is another."}','stop','ok',NULL,'',NULL,NULL,NULL,0.0,0,6961608676967895114);
INSERT INTO "teacher_calls" VALUES('63a6bf0602b0d13085fc2db36a9f1ff0',2,'response','17b6b023357b8d6e',0,1,'recorded','recorded','0ab611ef764a08691278478e947329b5','{"critique": "", "response": "Here are 6 things: the first is a thing, number 2 is another."}','stop','ok',NULL,'',NULL,NULL,NULL,0.0,0,2715224303914421819);
INSERT INTO "teacher_calls" VALUES('6f2a94e2114df02679d3dfe5f58907f1',2,'response','0ac1a91ec4485912',0,1,'recorded','recorded','5658ac5d4820a17d3a2304f6f39a68fd','{"critique": "", "response": "Here are 7 things: the first is a thing, number 2 is another."}','stop','ok',NULL,'',NULL,NULL,NULL,0.0,0,7171053281111679394);
INSERT INTO "teacher_calls" VALUES('a7622ce235bfedb4f40324247426b190',2,'response','77318010aae8f7d3',0,1,'recorded','recorded','353791f80ae8c9535377fe3cd0011a60','{"critique": "", "response": "Here are 8 things: the first is a thing, number 2 is another."}','stop','ok',NULL,'',NULL,NULL,NULL,0.0,0,8802448545984045792);
INSERT INTO "teacher_calls" VALUES('d1191ca72ece008e2661794cdba248ee',2,'response','88ff6b0a7e71e584',0,1,'recorded','recorded','050892cea16b91a0203430867118a6bd','',NULL,'no-entry','the recording has no entry for this pair',NULL,NULL,NULL,NULL,0.0,0,2417105411914678308);
INSERT INTO "teacher_calls" VALUES('ac2814267c0938a68847cf481a718acb',2,'response','a380be64fdd6ae7f',0,1,'recorded','recorded','fab8aa3a55d59fa687a2df523b974367','{"critique": "", "response": "Here are 10 things: the first is a thing, number 2 is another."}','stop','ok',NULL,'',NULL,NULL,NULL,0.0,0,3641793420402620821);
INSERT INTO "teacher_calls" VALUES('687a0ed1acb8d20469151c58562a4368',2,'response','c6455968d18bd912',0,1,'recorded','recorded','2527bca4eb7582adc44fa9cfb917ff32','{"critique": "", "response": "Here are 11 things: the first is a thing, number 2 is another."}','stop','ok',NULL,'',NULL,NULL,NULL,0.0,0,7884124881847055658);
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
INSERT INTO "training_sets" VALUES(2,'45dfaf984c639ff577b43701ae22ea64',4);
INSERT INTO "training_sets" VALUES(2,'8f8b615e67c9742442547459249b150b',2);
INSERT INTO "training_sets" VALUES(2,'91266e1cbdfbe15a8d5cf0330ca0b442',7);
INSERT INTO "training_sets" VALUES(2,'bead71c1a81ae11cd93a25acc83c983a',6);
INSERT INTO "training_sets" VALUES(2,'c22cb93121ea3a03e7954e8f2c5ebdc7',0);
INSERT INTO "training_sets" VALUES(2,'d7eb8e2f466503ec07d53b6e898366e2',5);
INSERT INTO "training_sets" VALUES(2,'f0de373e7ac4525919191ed593af4536',1);
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
INSERT INTO "versions" VALUES('1241caf657e7cf12ce5960755ef92390','17b6b023357b8d6e','69e37bbabbea14c0e0f64587e89f772e',2,'response',0,'Name 6 things that are brown.','Only things of size 6.','Here are 6 things: the first is a thing, number 2 is another.','63a6bf0602b0d13085fc2db36a9f1ff0');
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
COMMIT;
