# What R says of the tables in this folder, as by_r.json: clmm of ordinal, BTm of BradleyTerry2, base R.
#   apt install r-base-core r-cran-ordinal r-cran-bradleyterry2; Rscript by_r.R
suppressMessages({library(ordinal); library(BradleyTerry2)})
ratings <- read.csv("ratings.csv")
for (name in c("arm", "rater", "sample", "picture")) ratings[[name]] <- factor(ratings[[name]])
ratings$y <- factor(ratings$value, ordered = TRUE)
said <- c()
number <- function(x) paste0("[", paste(format(as.numeric(x), digits = 10), collapse = ", "), "]")
keep <- function(name, x) said <<- c(said, paste0(' "', name, '": ', number(x)))
fits <- list(
  none = clm(y ~ arm, data = ratings),
  two = clmm(y ~ arm + (1 | rater) + (1 | picture), data = ratings),
  three = clmm(y ~ arm + (1 | rater) + (1 | sample) + (1 | picture), data = ratings))
for (name in names(fits)) {
  fit <- fits[[name]]
  own <- grep("^arm", names(coef(fit)))
  keep(paste0(name, " cuts"), coef(fit)[-own][1:4])
  keep(paste0(name, " effects"), coef(fit)[own])
  keep(paste0(name, " errors"), sqrt(diag(vcov(fit)))[own])
  keep(paste0(name, " log likelihood"), logLik(fit))
  if (name != "none") keep(paste0(name, " spreads"), sapply(fit$ST, as.numeric)[sort(names(fit$ST))])
}
pairs <- read.csv("pairs.csv")
levels <- sort(unique(c(pairs$left, pairs$right)))
pairs$first <- data.frame(arm = factor(pairs$left, levels), left = 1)
pairs$second <- data.frame(arm = factor(pairs$right, levels), left = 0)
fit <- BTm(cbind(pairs$value, 1 - pairs$value), first, second, ~ arm + left, id = "arm", data = pairs)
keep("pairs", coef(fit))
keep("pairs errors", sqrt(diag(vcov(fit))))
outcomes <- as.matrix(read.csv("outcomes.csv"))
keep("cochran", friedman.test(outcomes)$p.value)
keep("mcnemar", binom.test(sum(outcomes[, 1] > outcomes[, 4]), sum(outcomes[, 1] != outcomes[, 4]))$p.value)
keep("holm", p.adjust(c(0.01, 0.04, 0.03, 0.005, 0.6), "holm"))
writeLines(c("{", paste(said, collapse = ",\n"), "}"), "by_r.json")
