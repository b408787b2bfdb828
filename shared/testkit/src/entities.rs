//! Rows of the marketplace that tests begin with, under ids that tests can speak of. What they do not say is set by an `UPDATE`.

use crate::World;

/// Everything that belongs to somebody belongs to a user of its own.
const OWNER: &str =
    "WITH owner AS (INSERT INTO users (id, email) VALUES ('usr_' || $1, $1 || '@example.test') RETURNING id)";

impl World {
    /// A brand.
    pub async fn brand(&self, id: &str, company_name: &str) {
        let insert = format!("{OWNER} INSERT INTO brands (id, user_id, company_name) SELECT $1, id, $2 FROM owner");
        self.execute(&insert, &[id, company_name]).await;
    }

    /// A creator.
    pub async fn creator(&self, id: &str, stage_name: &str) {
        let insert = format!("{OWNER} INSERT INTO creators (id, user_id, stage_name) SELECT $1, id, $2 FROM owner");
        self.execute(&insert, &[id, stage_name]).await;
    }

    /// A project of a brand.
    pub async fn project(&self, id: &str, brand: &str, name: &str) {
        let insert = "INSERT INTO projects (id, brand_id, name, created_by) SELECT $1, id, $3, user_id FROM brands WHERE id = $2";
        self.execute(insert, &[id, brand, name]).await;
    }

    /// An image that nobody owns a share of.
    pub async fn asset(&self, id: &str, title: &str) {
        let insert = format!(
            "{OWNER} INSERT INTO ip_assets (id, title, type, storage_key, file_size, created_by)
             SELECT $1, $2, 'IMAGE', 'assets/' || $1, 1, id FROM owner"
        );
        self.execute(&insert, &[id, title]).await;
    }

    /// A draft of a licence for the year 2030.
    pub async fn license(&self, id: &str, asset: &str, brand: &str) {
        let insert = "INSERT INTO licenses (id, ip_asset_id, brand_id, license_type, start_date, end_date)
                      VALUES ($1, $2, $3, 'NON_EXCLUSIVE', '2030-01-01', '2030-12-31')";
        self.execute(insert, &[id, asset, brand]).await;
    }

    /// A draft of a post.
    pub async fn post(&self, id: &str, title: &str) {
        let insert = format!(
            "{OWNER} INSERT INTO posts (id, title, slug, content, author_id) SELECT $1, $2, 'post-' || $1, 'A text.', id FROM owner"
        );
        self.execute(&insert, &[id, title]).await;
    }
}
