#!/usr/bin/env bash
# Draws the secrets that infra/compose.yaml reads, once, into infra/secrets/: readable by you alone, ignored by git.
set -euo pipefail
umask 077
folder=${1:-$(dirname "$0")/secrets}
mkdir "$folder"
cd "$folder"

word() { head -c 32 /dev/urandom | sha256sum | cut -c 1-48; }

word > ray_token
word > postgres_password
word > s3_password
word > mlflow_flask_key
mlflow_password=$(word)
printf '%s\n' '[mlflow]' "mlflow_tracking_username = likeness" "mlflow_tracking_password = $mlflow_password" \
  > mlflow_credentials
printf '%s\n' '[mlflow]' "default_permission = NO_PERMISSIONS" "admin_username = likeness" \
  "admin_password = $mlflow_password" "database_uri = postgresql+psycopg2://mlflow@db/mlflow_accounts" > mlflow_auth.ini
printf 'db:5432:*:mlflow:%s\n' "$(cat postgres_password)" > pgpass
printf '%s\n' '[default]' "aws_access_key_id = likeness" "aws_secret_access_key = $(cat s3_password)" > s3_credentials
