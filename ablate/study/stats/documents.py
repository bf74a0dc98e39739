"""Would other text agree? The standard error of a held-out difference when documents are resampled."""

import numpy as np
from numpy.typing import ArrayLike

from ablate.spec import Strict


class DocumentError(Strict):
    """The paired held-out difference first - second in nats per token, and its error over documents."""

    difference: float
    error: float
    documents: int


def document_error(first: ArrayLike, second: ArrayLike) -> DocumentError:
    """The document-clustered standard error of the held-out difference between two models.

    `first` and `second` have shape (documents, 2): the sum of the loss over the document (nats), and its
    number of tokens. Both models must have been scored on the same tokens. With d_i the difference of
    the sums and n_i the tokens of document i out of D, the ratio estimator is

        difference = sum d_i / sum n_i
        error^2    = D / (D - 1) * sum (d_i - difference * n_i)^2 / (sum n_i)^2

    which is weighted least squares of d_i / n_i on a constant, with weights n_i and the HC1 covariance
    (Cochran 1977, Sampling Techniques, chapter 6; Miller 2024, arXiv:2411.00640). It speaks of other
    documents and the same trained models; the interval over seeds speaks of other seeds and the same text.

    Raises ValueError if the shapes or the token counts differ, or with fewer than two documents.
    """
    import statsmodels.api as sm

    a, b = np.asarray(first, dtype=float), np.asarray(second, dtype=float)
    if a.ndim != 2 or a.shape[1] != 2 or a.shape != b.shape:
        raise ValueError(
            f"documents must come as (documents, 2): sum of loss, tokens; got {a.shape} and {b.shape}"
        )
    if not np.array_equal(a[:, 1], b[:, 1]):
        document = int(np.flatnonzero(a[:, 1] != b[:, 1])[0])
        raise ValueError(
            f"the two models were scored on different tokens: document {document} has "
            f"{a[document, 1]:g} tokens in one and {b[document, 1]:g} in the other"
        )
    if not np.isfinite(a).all() or not np.isfinite(b).all():
        raise ValueError("a document has a loss that is not a finite number")
    scored = a[:, 1] > 0
    tokens, sums = a[scored, 1], (a - b)[scored, 0]
    if len(tokens) < 2:
        raise ValueError(f"an error over documents needs two or more; there are {len(tokens)}")
    fit = sm.WLS(sums / tokens, np.ones((len(tokens), 1)), weights=tokens).fit(cov_type="HC1")
    return DocumentError(difference=float(fit.params[0]), error=float(fit.bse[0]), documents=len(tokens))
