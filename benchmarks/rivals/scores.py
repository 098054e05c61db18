"""What codes of images are worth to somebody who has the labels: classifiers, clusters, and their intervals."""

import warnings
from collections.abc import Mapping, Sequence

import numpy as np
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import confusion_matrix
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from avae.evaluation.metrics import assignment_accuracy

FOLDS, DRAWS, COMPONENTS = 5, 2000, 32


def told(codes: np.ndarray, labels: np.ndarray, seed: int) -> np.ndarray:
    """Which examples [N] a logistic regression of standardised codes tells, each from the other four of five folds."""
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=seed)
    classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=5000))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return cross_val_predict(classifier, codes, labels, cv=folds) == labels


def interval(values: np.ndarray, seed: int = 0) -> tuple[float, float, float]:
    """Mean of values [N] and its 95 % interval, by drawing examples with replacement."""
    values = np.asarray(values, np.float64)
    means = values[np.random.default_rng(seed).integers(len(values), size=(DRAWS, len(values)))].mean(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(values.mean()), float(low), float(high)


def compared(right: Mapping[str, Sequence[np.ndarray]], to: str) -> dict[str, dict[str, float]]:
    """Accuracy of each method and how far the method `to` is ahead of it, example by example, with their intervals.

    Args:
      right: of each method, for each seed which examples [N] are told.
      to: the method that all are compared with.
    """
    means = {name: np.mean(np.asarray(seeds, np.float64), axis=0) for name, seeds in right.items()}
    rows = {}
    for name, mean in means.items():
        value, low, high = interval(mean)
        ahead, least, most = interval(means[to] - mean)
        rows[name] = {"accuracy": value, "low": low, "high": high} | {"ahead": ahead, "least": least, "most": most}
    return rows


def reduced(images: np.ndarray, n: int) -> np.ndarray:
    """The first `n` principal components of images [N, ...]."""
    flat = np.asarray(images, np.float64).reshape(len(images), -1)
    return PCA(n, svd_solver="arpack", random_state=0).fit_transform(flat)


def clusters(codes: np.ndarray, n: int) -> dict[str, np.ndarray]:
    """Clusters [N] of codes by k-means, and by a mixture of Gaussians on at most 32 principal components.

    So O2-VAE's own notebook clusters; with several random starts, so that one bad start does not decide.
    """
    codes = np.asarray(codes, np.float64)
    components = min(COMPONENTS, codes.shape[1])
    few = PCA(components, random_state=0).fit_transform(codes)
    mixture = GaussianMixture(n, random_state=0, n_init=3, reg_covar=1e-4)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return {
            "k-means": KMeans(n, n_init=10, random_state=0).fit_predict(codes),
            "mixture": mixture.fit_predict(few),
        }


def purity(clusters: np.ndarray, labels: np.ndarray) -> float:
    """Share of examples whose label is the most common one of their cluster."""
    table = confusion_matrix(labels, clusters)
    return float(table.max(axis=0).sum() / table.sum())


def clustered(codes: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Purity of both clusterings, and the share of examples right after the best one-to-one naming of the clusters."""
    found = clusters(codes, len(np.unique(labels)))
    scores = {f"purity, {how}": purity(of, labels) for how, of in found.items()}
    return scores | {f"accuracy, {how}": assignment_accuracy(of, labels) for how, of in found.items()}
