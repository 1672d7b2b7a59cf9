"""Training and scoring, of LoRA adapters or of all a base's weights: torch only; knows no MLflow."""

#: Version of everything here that decides a number. Part of every fingerprint: raise it when results change.
ENGINE = "2"
