BEGIN TRANSACTION;
CREATE TABLE access_keys (
	access_key_id VARCHAR(128) NOT NULL, 
	account VARCHAR(12) NOT NULL, 
	region VARCHAR(32) NOT NULL, 
	sealed_secret BLOB NOT NULL, 
	created_at DATETIME NOT NULL, 
	disabled_at DATETIME, 
	PRIMARY KEY (access_key_id)
);
INSERT INTO "access_keys" VALUES('AKIAFH6QPG6KVZKP32RT','000000000000','us-east-1',X'80307D990F7FD77E02A9201103535A0CBC220A4AF2033EA1525640A907F39543FC3F6D545C02ACB6B8BCB7737F471E69E427DE089290BA78457CD712F9A770DB94D6BF33','2026-11-24 13:50:03.404885',NULL);
CREATE TABLE agent_runtime_endpoints (
	account VARCHAR(12) NOT NULL, 
	region VARCHAR(32) NOT NULL, 
	runtime_id VARCHAR(111) NOT NULL, 
	name VARCHAR(48) NOT NULL, 
	live_version INTEGER, 
	target_version INTEGER NOT NULL, 
	created_at DATETIME NOT NULL, 
	updated_at DATETIME NOT NULL, 
	PRIMARY KEY (account, region, runtime_id, name), 
	FOREIGN KEY(account, region, runtime_id) REFERENCES agent_runtimes (account, region, runtime_id) ON DELETE CASCADE
);
INSERT INTO "agent_runtime_endpoints" VALUES('000000000000','us-east-1','greeter-QNWXF631QT','DEFAULT',2,2,'2026-11-24 13:50:04.314755','2026-11-24 13:50:04.507561');
INSERT INTO "agent_runtime_endpoints" VALUES('000000000000','us-east-1','broken-nG5t0NHbTm','DEFAULT',NULL,1,'2026-11-24 13:50:04.616424','2026-11-24 13:50:04.616424');
CREATE TABLE agent_runtime_versions (
	account VARCHAR(12) NOT NULL, 
	region VARCHAR(32) NOT NULL, 
	runtime_id VARCHAR(111) NOT NULL, 
	version INTEGER NOT NULL, 
	status VARCHAR(16) NOT NULL, 
	failure_reason TEXT, 
	description TEXT, 
	received JSON NOT NULL, 
	configuration JSON NOT NULL, 
	digest VARCHAR(128), 
	launch JSON, 
	created_at DATETIME NOT NULL, 
	updated_at DATETIME NOT NULL, 
	deleted_at DATETIME, 
	PRIMARY KEY (account, region, runtime_id, version), 
	FOREIGN KEY(account, region, runtime_id) REFERENCES agent_runtimes (account, region, runtime_id) ON DELETE CASCADE
);
INSERT INTO "agent_runtime_versions" VALUES('000000000000','us-east-1','greeter-QNWXF631QT',1,'READY',NULL,'the first','{"agentRuntimeName":"greeter","agentRuntimeArtifact":{"codeConfiguration":{"code":{"s3":{"bucket":"agents","prefix":"greeter.zip"}},"runtime":"PYTHON_3_11","entryPoint":["main.py"]}},"roleArn":"arn:aws:iam::000000000000:role/agent","networkConfiguration":{"networkMode":"PUBLIC"},"description":"the first"}','{"agentRuntimeArtifact":{"codeConfiguration":{"code":{"s3":{"bucket":"agents","prefix":"greeter.zip"}},"runtime":"PYTHON_3_11","entryPoint":["main.py"]}},"roleArn":"arn:aws:iam::000000000000:role/agent","networkConfiguration":{"networkMode":"PUBLIC"},"protocolConfiguration":{"serverProtocol":"HTTP"},"lifecycleConfiguration":{"idleRuntimeSessionTimeout":900,"maxLifetime":28800},"metadataConfiguration":{"requireMMDSV2":true},"platformVersion":"V1","description":"the first"}','465f2751767cc2bc1155999179a2948e1bf7ac47feac23fb9cf3dfede2ef268d','{"account":"000000000000","region":"us-east-1","runtime_id":"greeter-QNWXF631QT","runtime_name":"greeter","version":1,"protocol":"HTTP","port":8080,"code_dir":"/var/lib/first/artifacts/465f2751767cc2bc1155999179a2948e1bf7ac47feac23fb9cf3dfede2ef268d-python_3_11","program":{"interpreter":{"executable":"/opt/first/python/bin/python3.11","prefixes":["/opt/first/python"],"site_dirs":["/opt/first/python/lib/site-packages"]},"args":["main.py"]},"idle_timeout_s":900,"max_lifetime_s":28800,"environment":{}}','2026-11-24 13:50:04.314755','2026-11-24 13:50:04.424393',NULL);
INSERT INTO "agent_runtime_versions" VALUES('000000000000','us-east-1','greeter-QNWXF631QT',2,'READY',NULL,'the second','{"agentRuntimeId":"greeter-QNWXF631QT","agentRuntimeArtifact":{"codeConfiguration":{"code":{"s3":{"bucket":"agents","prefix":"greeter.zip"}},"runtime":"PYTHON_3_11","entryPoint":["main.py"]}},"roleArn":"arn:aws:iam::000000000000:role/agent","networkConfiguration":{"networkMode":"PUBLIC"},"description":"the second","lifecycleConfiguration":{"idleRuntimeSessionTimeout":120},"environmentVariables":{"GREETING":"hello from the first release"}}','{"agentRuntimeArtifact":{"codeConfiguration":{"code":{"s3":{"bucket":"agents","prefix":"greeter.zip"}},"runtime":"PYTHON_3_11","entryPoint":["main.py"]}},"roleArn":"arn:aws:iam::000000000000:role/agent","networkConfiguration":{"networkMode":"PUBLIC"},"protocolConfiguration":{"serverProtocol":"HTTP"},"lifecycleConfiguration":{"idleRuntimeSessionTimeout":120,"maxLifetime":28800},"metadataConfiguration":{"requireMMDSV2":true},"platformVersion":"V1","description":"the second","environmentVariables":{"GREETING":"hello from the first release"}}','465f2751767cc2bc1155999179a2948e1bf7ac47feac23fb9cf3dfede2ef268d','{"account":"000000000000","region":"us-east-1","runtime_id":"greeter-QNWXF631QT","runtime_name":"greeter","version":2,"protocol":"HTTP","port":8080,"code_dir":"/var/lib/first/artifacts/465f2751767cc2bc1155999179a2948e1bf7ac47feac23fb9cf3dfede2ef268d-python_3_11","program":{"interpreter":{"executable":"/opt/first/python/bin/python3.11","prefixes":["/opt/first/python"],"site_dirs":["/opt/first/python/lib/site-packages"]},"args":["main.py"]},"idle_timeout_s":120,"max_lifetime_s":28800,"environment":{"GREETING":"hello from the first release"}}','2026-11-24 13:50:04.444682','2026-11-24 13:50:04.507561',NULL);
INSERT INTO "agent_runtime_versions" VALUES('000000000000','us-east-1','broken-nG5t0NHbTm',1,'CREATE_FAILED','The specified entrypoint could not be found or accessed in your artifact.',NULL,'{"agentRuntimeName":"broken","agentRuntimeArtifact":{"codeConfiguration":{"code":{"s3":{"bucket":"agents","prefix":"broken.zip"}},"runtime":"PYTHON_3_11","entryPoint":["main.py"]}},"roleArn":"arn:aws:iam::000000000000:role/agent","networkConfiguration":{"networkMode":"PUBLIC"}}','{"agentRuntimeArtifact":{"codeConfiguration":{"code":{"s3":{"bucket":"agents","prefix":"broken.zip"}},"runtime":"PYTHON_3_11","entryPoint":["main.py"]}},"roleArn":"arn:aws:iam::000000000000:role/agent","networkConfiguration":{"networkMode":"PUBLIC"},"protocolConfiguration":{"serverProtocol":"HTTP"},"lifecycleConfiguration":{"idleRuntimeSessionTimeout":900,"maxLifetime":28800},"metadataConfiguration":{"requireMMDSV2":true},"platformVersion":"V1"}',NULL,NULL,'2026-11-24 13:50:04.616424','2026-11-24 13:50:04.627088',NULL);
CREATE TABLE agent_runtimes (
	account VARCHAR(12) NOT NULL, 
	region VARCHAR(32) NOT NULL, 
	runtime_id VARCHAR(111) NOT NULL, 
	name VARCHAR(48) NOT NULL, 
	arn VARCHAR(256) NOT NULL, 
	status VARCHAR(16) NOT NULL, 
	failure_reason TEXT, 
	latest_version INTEGER NOT NULL, 
	workload_identity VARCHAR(255) NOT NULL, 
	created_at DATETIME NOT NULL, 
	updated_at DATETIME NOT NULL, 
	PRIMARY KEY (account, region, runtime_id), 
	CONSTRAINT uq_agent_runtimes_name UNIQUE (account, region, name)
);
INSERT INTO "agent_runtimes" VALUES('000000000000','us-east-1','greeter-QNWXF631QT','greeter','arn:aws:bedrock-agentcore:us-east-1:000000000000:runtime/greeter-QNWXF631QT','READY',NULL,2,'greeter-QNWXF631QT','2026-11-24 13:50:04.314755','2026-11-24 13:50:04.507561');
INSERT INTO "agent_runtimes" VALUES('000000000000','us-east-1','broken-nG5t0NHbTm','broken','arn:aws:bedrock-agentcore:us-east-1:000000000000:runtime/broken-nG5t0NHbTm','CREATE_FAILED','The specified entrypoint could not be found or accessed in your artifact.',1,'broken-nG5t0NHbTm','2026-11-24 13:50:04.616424','2026-11-24 13:50:04.627088');
CREATE TABLE alembic_version (
	version_num VARCHAR(32) NOT NULL, 
	CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
);
INSERT INTO "alembic_version" VALUES('0001');
CREATE TABLE client_tokens (
	account VARCHAR(12) NOT NULL, 
	region VARCHAR(32) NOT NULL, 
	operation VARCHAR(64) NOT NULL, 
	token VARCHAR(256) NOT NULL, 
	parameters_digest VARCHAR(64) NOT NULL, 
	receipt JSON NOT NULL, 
	expires_at DATETIME NOT NULL, 
	PRIMARY KEY (account, region, operation, token)
);
INSERT INTO "client_tokens" VALUES('000000000000','us-east-1','CreateAgentRuntime','aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa','7962042a0d8886051304d4826c51ba3371dc223b890792ba2f6bd44b69170c32','{"runtime_id":"greeter-QNWXF631QT","version":1,"status":"CREATING","workload_identity":"greeter-QNWXF631QT","created_at":"2026-11-24T13:50:04.314755Z","updated_at":"2026-11-24T13:50:04.314755Z"}','2026-11-25 13:50:04.314755');
INSERT INTO "client_tokens" VALUES('000000000000','us-east-1','UpdateAgentRuntime','89206c42-b7f7-4120-a2c5-7135dc3a3690','413a6a3a12f9ea09e9f9e24a5331b2e31594e506d3dc4ad43d7b66a464416457','{"runtime_id":"greeter-QNWXF631QT","version":2,"status":"UPDATING","workload_identity":"greeter-QNWXF631QT","created_at":"2026-11-24T13:50:04.314755Z","updated_at":"2026-11-24T13:50:04.444682Z"}','2026-11-25 13:50:04.444682');
INSERT INTO "client_tokens" VALUES('000000000000','us-east-1','CreateAgentRuntime','2954ba21-9577-442b-af63-3b126557dada','0d2fd490e6dd7eceb35a1b15069693d74ca37f048fadea3cd40af3c4525debc5','{"runtime_id":"broken-nG5t0NHbTm","version":1,"status":"CREATING","workload_identity":"broken-nG5t0NHbTm","created_at":"2026-11-24T13:50:04.616424Z","updated_at":"2026-11-24T13:50:04.616424Z"}','2026-11-25 13:50:04.616424');
CREATE TABLE store_marks (
	name VARCHAR(64) NOT NULL, 
	value BLOB NOT NULL, 
	PRIMARY KEY (name)
);
INSERT INTO "store_marks" VALUES('vault seal',X'C17A146A2C11028878B9FEF59A97674384F806784F0EE780C97C05030466FF54BFF63A74FE7FAF7AB08C');
CREATE TABLE tags (
	account VARCHAR(12) NOT NULL, 
	region VARCHAR(32) NOT NULL, 
	resource_arn VARCHAR(1011) NOT NULL, 
	"key" VARCHAR(128) NOT NULL, 
	value VARCHAR(256) NOT NULL, 
	PRIMARY KEY (account, region, resource_arn, "key")
);
INSERT INTO "tags" VALUES('000000000000','us-east-1','arn:aws:bedrock-agentcore:us-east-1:000000000000:runtime/greeter-QNWXF631QT','team','first');
CREATE TABLE workload_identities (
	account VARCHAR(12) NOT NULL, 
	region VARCHAR(32) NOT NULL, 
	name VARCHAR(255) NOT NULL, 
	runtime_id VARCHAR(111), 
	created_at DATETIME NOT NULL, 
	updated_at DATETIME NOT NULL, 
	PRIMARY KEY (account, region, name), 
	FOREIGN KEY(account, region, runtime_id) REFERENCES agent_runtimes (account, region, runtime_id) ON DELETE CASCADE
);
INSERT INTO "workload_identities" VALUES('000000000000','us-east-1','greeter-QNWXF631QT','greeter-QNWXF631QT','2026-11-24 13:50:04.314755','2026-11-24 13:50:04.314755');
INSERT INTO "workload_identities" VALUES('000000000000','us-east-1','broken-nG5t0NHbTm','broken-nG5t0NHbTm','2026-11-24 13:50:04.616424','2026-11-24 13:50:04.616424');
CREATE INDEX ix_agent_runtimes_order ON agent_runtimes (account, region, created_at, runtime_id);
CREATE INDEX ix_agent_runtimes_status ON agent_runtimes (status);
CREATE INDEX ix_workload_identities_runtime ON workload_identities (account, region, runtime_id);
CREATE INDEX ix_client_tokens_expiry ON client_tokens (expires_at);
COMMIT;
