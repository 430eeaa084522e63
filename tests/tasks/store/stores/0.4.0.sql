BEGIN TRANSACTION;
CREATE TABLE history (
	id INTEGER NOT NULL, 
	at DATETIME NOT NULL, 
	event VARCHAR NOT NULL, 
	image_id VARCHAR NOT NULL, 
	client_id VARCHAR NOT NULL, 
	round_id INTEGER, 
	details JSON NOT NULL, 
	PRIMARY KEY (id)
);
INSERT INTO "history" VALUES(1,'2026-11-26 08:09:44.327267','leased','image7','ann',1,'{}');
INSERT INTO "history" VALUES(2,'2026-11-26 08:09:44.348425','labelled','image7','ann',1,'{}');
INSERT INTO "history" VALUES(3,'2026-11-26 08:09:44.362820','leased','image4','bob',1,'{}');
INSERT INTO "history" VALUES(4,'2026-11-26 08:09:44.370679','labelled','image4','bob',1,'{}');
INSERT INTO "history" VALUES(5,'2026-11-26 08:09:44.414140','leased','image3','ann',2,'{}');
INSERT INTO "history" VALUES(6,'2026-11-26 08:09:44.425651','labelled','image3','ann',2,'{}');
INSERT INTO "history" VALUES(7,'2026-11-26 08:09:44.431369','leased','image6','bob',2,'{}');
CREATE TABLE images (
	image_id VARCHAR NOT NULL, 
	labelled BOOLEAN NOT NULL, 
	present BOOLEAN NOT NULL, 
	PRIMARY KEY (image_id)
);
INSERT INTO "images" VALUES('image0',1,1);
INSERT INTO "images" VALUES('image1',1,1);
INSERT INTO "images" VALUES('image2',0,1);
INSERT INTO "images" VALUES('image3',1,1);
INSERT INTO "images" VALUES('image4',1,1);
INSERT INTO "images" VALUES('image5',0,1);
INSERT INTO "images" VALUES('image6',0,1);
INSERT INTO "images" VALUES('image7',1,1);
CREATE TABLE leases (
	image_id VARCHAR NOT NULL, 
	client_id VARCHAR NOT NULL, 
	round_id INTEGER NOT NULL, 
	expires_at DATETIME NOT NULL, 
	PRIMARY KEY (image_id), 
	FOREIGN KEY(round_id) REFERENCES rounds (id)
);
INSERT INTO "leases" VALUES('image6','bob',2,'2026-11-26 09:09:44.431369');
CREATE TABLE models (
	id INTEGER NOT NULL, 
	name VARCHAR NOT NULL, 
	version VARCHAR NOT NULL, 
	path VARCHAR NOT NULL, 
	labelled_count INTEGER NOT NULL, 
	metrics JSON NOT NULL, 
	created_at DATETIME NOT NULL, 
	PRIMARY KEY (id)
);
INSERT INTO "models" VALUES(1,'segmentation','0123456789abcdef','segmentation-0123456789abcdef.pt',4,'{"best_metric": 0.5}','2026-11-26 08:09:44.377833');
CREATE TABLE pseudo_labels (
	round_id INTEGER NOT NULL, 
	image_id VARCHAR NOT NULL, 
	score FLOAT NOT NULL, 
	made_at DATETIME, 
	error VARCHAR, 
	compared_at DATETIME, 
	agreement JSON NOT NULL, 
	PRIMARY KEY (round_id, image_id), 
	FOREIGN KEY(round_id) REFERENCES rounds (id)
);
CREATE TABLE records (
	model_version VARCHAR NOT NULL, 
	image_id VARCHAR NOT NULL, 
	fingerprint VARCHAR NOT NULL, 
	scores JSON NOT NULL, 
	class_entropies JSON NOT NULL, 
	embedding BLOB, 
	error VARCHAR, 
	created_at DATETIME NOT NULL, 
	PRIMARY KEY (model_version, image_id)
);
INSERT INTO "records" VALUES('0123456789abcdef','image0','1:1','{"dropout_variance": 0.5}','{"tumor": 0.1}',X'0000803F0000803F',NULL,'2026-11-26 08:09:44.378888');
INSERT INTO "records" VALUES('0123456789abcdef','image1','1:1','{"dropout_variance": 0.5}','{"tumor": 0.1}',X'0000803F0000803F',NULL,'2026-11-26 08:09:44.383977');
INSERT INTO "records" VALUES('0123456789abcdef','image2','1:1','{"dropout_variance": 0.5}','{"tumor": 0.1}',X'0000803F0000803F',NULL,'2026-11-26 08:09:44.385852');
INSERT INTO "records" VALUES('0123456789abcdef','image3','1:1','{"dropout_variance": 0.5}','{"tumor": 0.1}',X'0000803F0000803F',NULL,'2026-11-26 08:09:44.387541');
INSERT INTO "records" VALUES('0123456789abcdef','image4','1:1','{"dropout_variance": 0.5}','{"tumor": 0.1}',X'0000803F0000803F',NULL,'2026-11-26 08:09:44.389264');
INSERT INTO "records" VALUES('0123456789abcdef','image5','1:1','{"dropout_variance": 0.5}','{"tumor": 0.1}',X'0000803F0000803F',NULL,'2026-11-26 08:09:44.390929');
INSERT INTO "records" VALUES('0123456789abcdef','image6','1:1','{"dropout_variance": 0.5}','{"tumor": 0.1}',X'0000803F0000803F',NULL,'2026-11-26 08:09:44.392566');
INSERT INTO "records" VALUES('0123456789abcdef','image7','1:1','{"dropout_variance": 0.5}','{"tumor": 0.1}',X'0000803F0000803F',NULL,'2026-11-26 08:09:44.394380');
CREATE TABLE round_images (
	round_id INTEGER NOT NULL, 
	rank INTEGER NOT NULL, 
	image_id VARCHAR NOT NULL, 
	score FLOAT, 
	"group" VARCHAR, 
	PRIMARY KEY (round_id, rank), 
	FOREIGN KEY(round_id) REFERENCES rounds (id)
);
INSERT INTO "round_images" VALUES(1,1,'image7',NULL,NULL);
INSERT INTO "round_images" VALUES(1,2,'image4',NULL,NULL);
INSERT INTO "round_images" VALUES(1,3,'image2',NULL,NULL);
INSERT INTO "round_images" VALUES(2,1,'image3',NULL,NULL);
INSERT INTO "round_images" VALUES(2,2,'image6',NULL,NULL);
INSERT INTO "round_images" VALUES(2,3,'image2',NULL,NULL);
CREATE TABLE rounds (
	id INTEGER NOT NULL, 
	strategy VARCHAR NOT NULL, 
	model_version VARCHAR NOT NULL, 
	number INTEGER NOT NULL, 
	size INTEGER NOT NULL, 
	reason VARCHAR NOT NULL, 
	opened_at DATETIME NOT NULL, 
	closed_at DATETIME, 
	completed BOOLEAN NOT NULL, 
	PRIMARY KEY (id)
);
INSERT INTO "rounds" VALUES(1,'random','',1,3,'cold_start','2026-11-26 08:09:44.333797','2026-11-26 08:09:44.400716',0);
INSERT INTO "rounds" VALUES(2,'random','0123456789abcdef',2,3,'scored','2026-11-26 08:09:44.419429',NULL,0);
CREATE TABLE scorings (
	id INTEGER NOT NULL, 
	model_version VARCHAR NOT NULL, 
	completed_at DATETIME NOT NULL, 
	PRIMARY KEY (id), 
	UNIQUE (model_version)
);
INSERT INTO "scorings" VALUES(1,'0123456789abcdef','2026-11-26 08:09:44.397901');
CREATE TABLE skips (
	image_id VARCHAR NOT NULL, 
	client_id VARCHAR NOT NULL, 
	reason VARCHAR NOT NULL, 
	at DATETIME NOT NULL, 
	PRIMARY KEY (image_id)
);
CREATE INDEX ix_images_labelled ON images (labelled);
CREATE INDEX failed_records ON records (model_version, image_id) WHERE error IS NOT NULL;
CREATE INDEX ix_models_name ON models (name);
CREATE INDEX open_rounds ON rounds (strategy, model_version, closed_at);
CREATE INDEX ix_history_image_id ON history (image_id);
CREATE INDEX ix_round_images_image_id ON round_images (image_id);
CREATE INDEX ix_pseudo_labels_image_id ON pseudo_labels (image_id);
CREATE INDEX ix_leases_client_id ON leases (client_id);
COMMIT;
