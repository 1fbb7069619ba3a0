rule table:
    input:
        results=results_of,
        papers=papers_of,
    output:
        csv=report(
            "results/tables/{table}.csv",
            caption="../report/table.rst",
            category="Tables",
            labels={"table": "{table}"},
        ),
        md="results/tables/{table}.md",
        tex="results/tables/{table}.tex",
    log:
        "logs/table/{table}.log",
    localrule: True
    params:
        spec=spec_of,
    shell:
        "reaction table {output.csv:q} --spec {params.spec:q} > {log:q} 2>&1"
