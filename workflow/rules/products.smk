# Figures and pages from artifacts alone: seconds each, no model; a rule per product of the study.
# Report labels name a result in one label: where two labels vary in a category, Snakemake 9.27's report turns them into
# switches and breaks on combinations that do not exist.


for product in products.of_study(STUDY):

    rule:
        name:
            product.rule
        input:
            results_of(product.reads(STUDY)),
            lists=[LISTS[name] for name in product.lists],
        output:
            **product.files
            | {
                product.suffixes[-1]: report(
                    product.files[product.suffixes[-1]],
                    caption=f"../report/{product.caption}.rst",
                    **product.in_report,
                )
            },
        log:
            f"logs/{product.stem}.log",
        localrule: True
        conda:
            "../../envs/analysis.yaml"
        params:
            **product.caption_facts,
            code=code_digest(product.module),
            options=product.command(STUDY),
            place=product.place_options,
            stem=f"results/{product.stem}",
        message:
            product.message
        shell:
            # Evaluated again in each job, where `product` is the loop's last.
            step("{params.options} {params.place:q} --out {params.stem:q}")


# One target per figure, over all models and seeds.
for product in products.of_study(STUDY):
    if product.target == "figures" and product.kind == "figure":

        rule:
            name:
                product.name
            input:
                results_of(product.paths(STUDY)),
