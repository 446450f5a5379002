"""The demo's RNA: a genes × patients matrix in which some genes follow the molecular state."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

PLANTED: Mapping[str, float] = {
    # The HER2 amplicon on 17q12 and its neighbours increase with the state, the luminal genes decrease.
    **dict.fromkeys(("ERBB2", "GRB7", "PGAP3", "STARD3", "MIEN1"), 1.2),
    **dict.fromkeys(("TCAP", "PNMT", "IKZF3", "ORMDL3", "GSDMB", "CDK12", "MED1", "FBXL20", "PSMD3", "CASC3"), 0.7),
    **dict.fromkeys(("FGFR4", "TMEM45B", "CLCA2", "AGR2", "S100A8", "S100A9", "KMO", "ANGPTL4", "DHRS2"), 0.5),
    **dict.fromkeys(("ESR1", "PGR", "NAT1", "SCUBE2", "BCL2", "GREB1"), -0.7),
    **dict.fromkeys(("MAPT", "MLPH", "SLC39A6", "IGF1R", "CA12", "STC2", "DNALI1", "EVL"), -0.4),
}
"""Genes that follow the molecular state, and by how much (log2 units for one unit of the state)."""

BACKGROUND = """
A2M ACAT1 ACKR1 ACTA2 ACTB ACTG1 ADAM12 ADH1B ADIPOQ AKT1 AKT2 ALDH1A1 ALDOA ANLN ANXA1 APC APOD APOE AQP1 AR ARAF
ARID1A ATM ATR AURKA AURKB AXIN1 AXIN2 B2M BAG1 BAK1 BAX BCL6 BIRC5 BLM BMP4 BRAF BRCA1 BRCA2 BUB1 BUB1B C3 CALD1
CASP3 CASP8 CAV1 CCL2 CCL5 CCNA2 CCNB1 CCNB2 CCND1 CCND2 CCNE1 CCNE2 CCR7 CD14 CD19 CD22 CD24 CD27 CD274 CD34 CD3D
CD3E CD4 CD44 CD68 CD79A CD8A CDC20 CDC25A CDC6 CDCA8 CDH1 CDH2 CDH3 CDK1 CDK2 CDK4 CDK6 CDKN1A CDKN1B CDKN2A CENPA
CENPE CENPF CEP55 CHEK1 CHEK2 CLDN3 CLDN4 CLDN7 COL10A1 COL11A1 COL1A1 COL1A2 COL3A1 COL4A1 COL5A1 COL6A3 CTNNB1
CTSL CXCL10 CXCL12 CXCL9 CXCR4 DCN DES DSC2 E2F1 E2F3 EGFR ELF3 ELN EMP1 ENO1 EPCAM ERBB3 ERBB4 EXO1 EZH2 FABP4 FAP
FBLN1 FBN1 FGF2 FGFR1 FGFR2 FLT1 FN1 FOS FOXA1 FOXC1 FOXM1 FOXP3 GAPDH GATA3 GINS1 GSTM1 GSTP1 GUSB GZMA GZMB HIF1A
HLA-A HLA-B HLA-C HLA-DRA HMGA1 HRAS HSPA5 ICAM1 IDH1 IDH2 IDO1 IFIT1 IFNG IGF1 IGFBP3 IGFBP5 IL2RA IL6 IL7R ITGA5
ITGB1 ITGB4 JAK1 JAK2 JUN KDR KIF11 KIF20A KIF23 KIF2C KIT KRAS KRT14 KRT17 KRT18 KRT19 KRT5 KRT6B KRT7 KRT8 LAG3 LEF1
LPL LUM MAD2L1 MAP2K1 MAPK1 MAPK3 MCM2 MCM3 MCM6 MDM2 MELK MET MIA MKI67 MKNK2 MMP1 MMP11 MMP2 MMP9 MSH2 MSH6 MTOR MUC1
MYBL2 MYC MYCN NCAM1 NDC80 NEK2 NF1 NOTCH1 NOTCH2 NRAS NUF2 ORC6 PALB2 PCNA PDCD1 PDGFRA PDGFRB PECAM1 PGK1 PHGDH PIK3CA
PIK3R1 PLAU PLIN1 PLK1 POSTN PPARG PRC1 PRF1 PTEN PTPRC PTTG1 RAD51 RAF1 RB1 RELA RHOA RPLP0 RRM2 SDC1 SELE SFRP1 SMAD3
SMAD4 SNAI1 SNAI2 SOX10 SOX9 SPARC SPP1 STAT1 STAT3 STK11 TAGLN TBX21 TFRC TGFB1 TGFBR2 THBS1 THY1 TOP2A TP53 TPX2 TTK
TUBB TWIST1 TYMS UBE2C UBE2T VEGFA VIM VWF XBP1 YAP1 ZEB1 ZEB2
""".split()  # noqa: SIM905 - quoted one by one they would fill the page

FACTORS = 5
"""Nuisance factors: biology unrelated to the state (immune infiltrate, proliferation, purity …)."""


def make_expression(rng: np.random.Generator, states: Mapping[str, float]) -> pd.DataFrame:
    """Make TPM-like values, genes × patients, index `gene` sorted.

    :param states: the molecular state (about −2 to 2) of each patient, by patient id.
    """
    genes = sorted({*BACKGROUND, *PLANTED})
    state = np.array(list(states.values()))
    loading = np.array([PLANTED.get(gene, 0.0) for gene in genes])
    base = rng.normal(5.0, 2.0, (len(genes), 1)).clip(0.5, 11)
    nuisance = rng.normal(0, 0.2, (len(genes), FACTORS)) @ rng.standard_normal((FACTORS, len(state)))
    noise = rng.normal(0, 0.4, (len(genes), len(state)))
    sampled = state + rng.normal(0, 0.2, len(state))  # a biopsy is only a part of the tumour
    log2 = base + loading[:, None] * sampled + nuisance + noise
    return pd.DataFrame((2 ** log2.clip(0) - 1).round(2), index=pd.Index(genes, name="gene"), columns=list(states))
