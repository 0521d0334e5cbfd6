"""The Likeness jobs: each reads artefacts and writes one new artefact. Ray and MLflow live here."""
