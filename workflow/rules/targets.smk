# One target rule per DVC stage.
rule data:
    input:
        files_of("data"),
    localrule: True


rule features:
    input:
        files_of("features"),
    localrule: True


rule models:
    input:
        files_of("models") + files_of("attention"),
    localrule: True


rule scores:
    input:
        files_of("scores") + files_of("detections"),
    localrule: True


rule tables:
    input:
        reproduced(),
    localrule: True
