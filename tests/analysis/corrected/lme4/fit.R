# Fits the seven components with lme4 to every CSV file of a folder and writes one JSON object per file name.
# Rscript fit.R <folder> <file.json>      Debian: apt-get install r-cran-lme4 r-cran-jsonlite
suppressPackageStartupMessages(library(lme4))

arguments <- commandArgs(trailingOnly = TRUE)
tight <- lmerControl(
  optimizer = "bobyqa", optCtrl = list(rhoend = 1e-9, maxfun = 1e5),
  calc.derivs = FALSE, check.conv.singular = "ignore"
)

fit <- function(file) {
  rows <- read.csv(file)
  # The optimiser may stop at zero too early (seen: 0.001 above the best criterion), so it starts from three places.
  fits <- lapply(c(1, 0.3, 0.1), function(start) {
    lmer(
      delta ~ 1 + (1 | model) + (1 | source) + (1 | target) + (1 | model:source) + (1 | model:target) +
        (1 | source:target),
      data = rows, REML = TRUE, control = tight, start = rep(start, 6)
    )
  })
  found <- fits[[which.min(sapply(fits, REMLcrit))]]
  table <- as.data.frame(VarCorr(found))
  names <- ifelse(table$grp == "Residual", "residual", table$grp)
  list(
    criterion = unname(REMLcrit(found)), mean = unname(fixef(found)), mean_se = sqrt(vcov(found)[1, 1]),
    components = as.list(setNames(table$vcov, names))
  )
}

files <- sort(list.files(arguments[1], pattern = "\\.csv$", full.names = TRUE))
found <- setNames(lapply(files, fit), sub("\\.csv$", "", basename(files)))
found$versions <- list(R = as.character(getRversion()), lme4 = as.character(packageVersion("lme4")))
jsonlite::write_json(found, arguments[2], auto_unbox = TRUE, digits = 12, pretty = TRUE)
