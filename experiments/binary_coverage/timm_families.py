"""Of each family of timm one small classifier, and some more of the large families."""

from __future__ import annotations

TIMM = (
    "bat_resnext26ts", "beit_base_patch16_224", "caformer_s18", "cait_xxs24_224", "coat_tiny",
    "convit_tiny", "convmixer_768_32", "convnext_atto", "convnext_femto", "cpubone_nano",
    "crossvit_tiny_240", "cs3darknet_focus_s", "csatv2", "cspnext_tiny", "davit_tiny",
    "deepseek_vit_412m", "deit_tiny_patch16_224", "densenet121", "dla34", "dm_nfnet_f0", "dpn68",
    "eca_resnet33ts", "edgenext_xx_small", "efficientformer_l1", "efficientformerv2_s0",
    "efficientnet_lite0", "efficientvim_m1", "efficientvit_b0", "efficientvit_m0",
    "ese_vovnet19b_slim_dw", "eva02_tiny_patch14_224", "fasternet_t0", "fastvit_t8",
    "focalnet_tiny_srf", "gcvit_xxtiny", "gernet_s", "ghostnet_050", "gmlp_ti16_224",
    "halonet_h1", "hardcorenas_b", "hgnetv2_b0", "hiera_tiny_224", "hrnet_w18_small", "iformer_t",
    "inception_next_atto", "inception_resnet_v2", "inception_v3", "inception_v4", "lcnetv2_small",
    "legacy_seresnet18", "legacy_xception", "levit_384_s8", "lowformer_b0", "mambaout_femto",
    "maxvit_pico_rw_256", "mixer_s32_224", "mnasnet_small", "mobilenetv2_050",
    "mobilenetv3_small_050", "mobilenetv4_conv_small", "mobilenetv5_base", "mobileone_s0",
    "mobilevit_xxs", "mvitv2_tiny", "naflexvit_base_patch16_siglip", "nasnetalarge", "nest_tiny",
    "nextvit_small", "nf_seresnet26", "pit_ti_224", "pnasnet5large", "poolformer_s12",
    "pvt_v2_b0", "qwen3_vit_88m", "rdnet_tiny", "regnetx_004_tv", "repghostnet_050", "repvgg_a0",
    "repvit_m1", "res2next50", "resmlp_12_224", "resnest14d", "resnet18", "resnet26d",
    "resnetv2_18", "rexnet_100", "samvit_base_patch16", "selecsls42", "sequencer2d_s",
    "seresnet33ts", "shvit_s1", "skresnet18", "starnet_s1", "swiftformer_xs",
    "swin_tiny_patch4_window7_224", "swinv2_cr_tiny_224", "swinv2_tiny_window8_256",
    "tf_efficientnet_b0", "tf_efficientnetv2_b0", "tiny_vit_5m_224", "tnt_s_legacy_patch16_224",
    "tresnet_m", "twins_svt_small", "vgg11", "vgg11_bn", "visformer_tiny",
    "vit_srelpos_small_patch16_224", "vit_tiny_patch16_224", "vit_tiny_r_s16_p8_224",
    "vitamin_small_224", "volo_d1_224", "xception41", "xcit_nano_12_p8_224",
)  # fmt: skip
