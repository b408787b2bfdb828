INSERT INTO users (id, email) VALUES ('usr_1', 'one@example.test');
INSERT INTO ip_assets (id, title, type, storage_key, file_size, created_by) VALUES ('ast_1', 'Golden Temple', 'IMAGE', 'assets/ast_1', 1, 'usr_1');
INSERT INTO creators (id, user_id, stage_name) VALUES ('cre_1', 'usr_1', 'Zoë');
INSERT INTO posts (id, title, slug, content, author_id) VALUES ('pst_1', 'News', 'news', 'A text.', 'usr_1');
