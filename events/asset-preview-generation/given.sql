INSERT INTO users (id, email) VALUES ('usr_1', 'one@example.test');
INSERT INTO ip_assets (id, title, type, storage_key, file_size, mime_type, content_sha256, created_by, status, scan_status, deleted_at)
VALUES ('ast_image', 'A picture', 'IMAGE', 'assets/ast_image/9f86d081884c/original.png', 1, 'image/png', repeat('0', 64), 'usr_1', 'REVIEW', 'CLEAN', NULL),
       ('ast_deleted', 'A film', 'VIDEO', 'assets/ast_deleted/9f86d081884c/original.mp4', 1, 'video/mp4', repeat('0', 64), 'usr_1', 'REVIEW', 'CLEAN', now());
