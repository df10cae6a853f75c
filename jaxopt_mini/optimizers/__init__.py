"""All optimizers, one file each, and ``OPTIMIZERS``, the table of their names."""

from jaxopt_mini.optimizers._adabelief import adabelief as adabelief, scale_by_belief as scale_by_belief
from jaxopt_mini.optimizers._adadelta import adadelta as adadelta, scale_by_adadelta as scale_by_adadelta
from jaxopt_mini.optimizers._adafactor import adafactor as adafactor
from jaxopt_mini.optimizers._adagrad import adagrad as adagrad, scale_by_rss as scale_by_rss
from jaxopt_mini.optimizers._adam import adam as adam, scale_by_adam as scale_by_adam
from jaxopt_mini.optimizers._adam_mini import adam_mini as adam_mini, scale_by_adam_mini as scale_by_adam_mini
from jaxopt_mini.optimizers._adamax import adamax as adamax, scale_by_adamax as scale_by_adamax
from jaxopt_mini.optimizers._adamaxw import adamaxw as adamaxw
from jaxopt_mini.optimizers._adamuon import adamuon as adamuon, scale_by_adamuon as scale_by_adamuon
from jaxopt_mini.optimizers._adamw import adamw as adamw
from jaxopt_mini.optimizers._adan import adan as adan, scale_by_adan as scale_by_adan
from jaxopt_mini.optimizers._ademamix import ademamix as ademamix, scale_by_ademamix as scale_by_ademamix
from jaxopt_mini.optimizers._adopt import adopt as adopt, scale_by_adopt as scale_by_adopt
from jaxopt_mini.optimizers._amsgrad import amsgrad as amsgrad, scale_by_amsgrad as scale_by_amsgrad
from jaxopt_mini.optimizers._amuse import amuse as amuse
from jaxopt_mini.optimizers._apollo import apollo as apollo, scale_by_apollo as scale_by_apollo
from jaxopt_mini.optimizers._asgd import asgd as asgd
from jaxopt_mini.optimizers._aurora import aurora as aurora
from jaxopt_mini.optimizers._came import came as came, scale_by_came as scale_by_came
from jaxopt_mini.optimizers._dadapt_adamw import dadapt_adamw as dadapt_adamw
from jaxopt_mini.optimizers._dion import dion as dion, scale_by_dion as scale_by_dion
from jaxopt_mini.optimizers._dion2 import dion2 as dion2, scale_by_dion2 as scale_by_dion2
from jaxopt_mini.optimizers._dog import dog as dog, scale_by_dog as scale_by_dog
from jaxopt_mini.optimizers._dowg import dowg as dowg, scale_by_dowg as scale_by_dowg
from jaxopt_mini.optimizers._galore import galore as galore, scale_by_galore as scale_by_galore
from jaxopt_mini.optimizers._gpa_adamw import gpa_adamw as gpa_adamw
from jaxopt_mini.optimizers._kl_soap import kl_soap as kl_soap, scale_by_kl_soap as scale_by_kl_soap
from jaxopt_mini.optimizers._kron import kron as kron, scale_by_kron as scale_by_kron
from jaxopt_mini.optimizers._lamb import lamb as lamb
from jaxopt_mini.optimizers._laprop import laprop as laprop
from jaxopt_mini.optimizers._lars import lars as lars
from jaxopt_mini.optimizers._ldadam import ldadam as ldadam, scale_by_ldadam as scale_by_ldadam
from jaxopt_mini.optimizers._lion import lion as lion, scale_by_lion as scale_by_lion
from jaxopt_mini.optimizers._mars import mars as mars, reduce_variance as reduce_variance
from jaxopt_mini.optimizers._momentum import momentum as momentum
from jaxopt_mini.optimizers._muon import muon as muon, scale_by_muon as scale_by_muon
from jaxopt_mini.optimizers._muown import muown as muown
from jaxopt_mini.optimizers._nadam import nadam as nadam, scale_by_nadam as scale_by_nadam
from jaxopt_mini.optimizers._nadamw import nadamw as nadamw
from jaxopt_mini.optimizers._normuon import normuon as normuon, scale_by_normuon as scale_by_normuon
from jaxopt_mini.optimizers._novograd import novograd as novograd, scale_by_novograd as scale_by_novograd
from jaxopt_mini.optimizers._polargrad import polargrad as polargrad, scale_by_polargrad as scale_by_polargrad
from jaxopt_mini.optimizers._polyak_sgd import polyak_sgd as polyak_sgd, scale_by_polyak as scale_by_polyak
from jaxopt_mini.optimizers._prodigy import prodigy as prodigy
from jaxopt_mini.optimizers._psgd import psgd as psgd, scale_by_psgd as scale_by_psgd
from jaxopt_mini.optimizers._radam import radam as radam, scale_by_radam as scale_by_radam
from jaxopt_mini.optimizers._rmsprop import rmsprop as rmsprop, scale_by_rms as scale_by_rms
from jaxopt_mini.optimizers._rprop import rprop as rprop, scale_by_rprop as scale_by_rprop
from jaxopt_mini.optimizers._schedule_free_adamw import schedule_free_adamw as schedule_free_adamw
from jaxopt_mini.optimizers._schedule_free_plus import schedule_free_plus as schedule_free_plus
from jaxopt_mini.optimizers._schedule_free_radam import schedule_free_radam as schedule_free_radam
from jaxopt_mini.optimizers._schedule_free_sgd import schedule_free_sgd as schedule_free_sgd
from jaxopt_mini.optimizers._scion import scale_by_scion as scale_by_scion, scion as scion
from jaxopt_mini.optimizers._sgd import sgd as sgd
from jaxopt_mini.optimizers._shampoo import scale_by_shampoo as scale_by_shampoo, shampoo as shampoo
from jaxopt_mini.optimizers._sign_sgd import scale_by_sign as scale_by_sign, sign_sgd as sign_sgd
from jaxopt_mini.optimizers._signum import signum as signum
from jaxopt_mini.optimizers._simplified_ademamix import (
    scale_by_simplified_ademamix as scale_by_simplified_ademamix,
    simplified_ademamix as simplified_ademamix,
)
from jaxopt_mini.optimizers._sm3 import scale_by_sm3 as scale_by_sm3, sm3 as sm3
from jaxopt_mini.optimizers._soap import scale_by_soap as scale_by_soap, soap as soap
from jaxopt_mini.optimizers._soap_muon import scale_by_soap_muon as scale_by_soap_muon, soap_muon as soap_muon
from jaxopt_mini.optimizers._sophia import (
    given_diag_hessian as given_diag_hessian,
    hutchinson_estimator_diag_hessian as hutchinson_estimator_diag_hessian,
    scale_by_sophia as scale_by_sophia,
    sophia as sophia,
)
from jaxopt_mini.optimizers._splus import splus as splus
from jaxopt_mini.optimizers._stable_adamw import (
    scale_by_stable_adamw as scale_by_stable_adamw,
    stable_adamw as stable_adamw,
)
from jaxopt_mini.optimizers._yogi import scale_by_yogi as scale_by_yogi, yogi as yogi

OPTIMIZERS = {
    f.__name__: f
    for f in (
        sgd,
        momentum,
        adagrad,
        rmsprop,
        adam,
        adamw,
        nadamw,
        lion,
        nadam,
        amsgrad,
        adamax,
        adamaxw,
        adadelta,
        radam,
        rprop,
        sign_sgd,
        signum,
        lamb,
        lars,
        adafactor,
        adabelief,
        yogi,
        adan,
        novograd,
        sm3,
        polyak_sgd,
        asgd,
        muon,
        normuon,
        adamuon,
        polargrad,
        aurora,
        muown,
        soap,
        scion,
        dion,
        dion2,
        shampoo,
        kl_soap,
        soap_muon,
        splus,
        kron,
        psgd,
        galore,
        apollo,
        ldadam,
        mars,
        adopt,
        ademamix,
        simplified_ademamix,
        sophia,
        adam_mini,
        laprop,
        stable_adamw,
        came,
        prodigy,
        dadapt_adamw,
        dog,
        dowg,
        schedule_free_sgd,
        schedule_free_adamw,
        schedule_free_radam,
        schedule_free_plus,
        gpa_adamw,
        amuse,
    )
}
