"""Training: the fitting of a network to a fold, its gene panel and its RNA teacher."""
