"""Training and scoring of LoRA adapters: torch only; knows no MLflow."""

#: Version of everything here that decides a number. Part of every fingerprint: raise it when results change.
ENGINE = "2"
